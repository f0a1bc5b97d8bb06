"""Measure what a layout costs: one training step of a reward model, padded, packed side by side, and as token trees.

    python benchmarks/layout.py                          16 pairs, OPT-125M's shape, random weights, float32
    python benchmarks/layout.py --bf16 --answers 4       rankings of four answers, computed in bfloat16
    python benchmarks/layout.py --lengths FILE.csv       your lengths: prompt_tokens,chosen_tokens,rejected_tokens
    python benchmarks/layout.py --width 192 --layers 4   another shape

A step is everything: cutting, collating, forward, backward, AdamW. The layouts take turns, each round starts with
another one, and all train the same weights on the same preferences, so their losses are compared as well. "Padded" is
cut into rectangles of similar lengths. Times are CPU seconds of this process, which other programs disturb less than
the clock. Without a file the lengths are drawn from log-normal distributions with the means of Anthropic's HH: 116
tokens of prompt, 39 and 48 of answer.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
import time
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, OPTConfig

from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing.layout import lay_out
from rlhfcli.core.tasks import reward
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.recipe.schema import RewardSection

LAYOUTS = {"padded": (False, False), "side by side": (True, False), "token trees": (True, True)}  # packed, share
VOCABULARY = 50272


def lengths(file: Path | None, count: int, draw: random.Random) -> list[tuple[int, ...]]:
    """Return the tokens of prompt, better answer and worse answer for each pair."""
    if file is None:
        means = (116, 39, 48)
        return [tuple(1 + int(draw.lognormvariate(math.log(m) - 0.32, 0.8)) for m in means) for _ in range(count)]
    with file.open(encoding="utf-8") as lines:
        rows = [tuple(max(1, int(number)) for number in row.values()) for row in csv.DictReader(lines)]
    return draw.sample(rows, count)


def preferences(options: argparse.Namespace) -> list[EncodedPreference]:
    draw = random.Random(options.seed)
    made = []
    for prompt, *answers in lengths(options.lengths, options.preferences, draw):
        sizes = [answers[k % len(answers)] for k in range(options.answers)]
        ids = [[draw.randrange(3, VOCABULARY) for _ in range(size)] for size in (prompt, *sizes)]
        order = list(combinations(range(options.answers), 2))
        made.append(EncodedPreference(ids[0], ids[1:], order, [0.0] * len(order)))
    return made


class Side:
    """One layout with a model and an optimizer of its own."""

    def __init__(self, name: str, rows: list[EncodedPreference], options: argparse.Namespace) -> None:
        self.packed, share = LAYOUTS[name]
        self.lay_out = partial(lay_out, share=share)
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=VOCABULARY, hidden_size=options.width, ffn_dim=4 * options.width,
            word_embed_proj_dim=options.width,
            num_hidden_layers=options.layers, num_attention_heads=options.width // 64, max_position_embeddings=4096,
            dropout=0.0, attention_dropout=0.0, num_labels=1,
        )  # fmt: skip
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        self.module = RewardModel(model, bf16=options.bf16)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5, fused=True)
        self.task = reward.RewardTask(rows, RewardSection(), packed=self.packed, pad_id=1)
        self.task.lengths()  # sizes are taken once, before the first step
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.collating: list[float] = []

    def step(self, budget: int) -> None:
        reward.lay_out = self.lay_out
        began = time.process_time()
        rows = range(len(self.task.preferences))
        batches = [self.task.collate(part) for part in self.task.cut(rows, budget)]
        self.collating.append(time.process_time() - began)
        loss = 0.0
        with attention(self.module.model, TREES if self.packed else None):
            for batch in batches:
                part = self.task.step(self.module, batch)["loss"] / len(rows)
                part.backward()
                loss += float(part.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(time.process_time() - began)
        self.losses.append(loss)
        self.cells = sum(batch.layout.input_ids.numel() for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--preferences", type=int, default=16)
    parser.add_argument("--answers", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a micro-batch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rows = preferences(options)
    sides = {name: Side(name, rows, options) for name in LAYOUTS}
    for number in range(options.rounds + 1):
        names = list(sides)
        for name in names[number % 3 :] + names[: number % 3]:
            sides[name].step(options.budget)
    print(f"{'':14}{'cells':>8}{'CPU s':>9}{'range':>17}{'padded /':>10}{'collate ms':>12}{'loss':>10}")
    middle = {name: statistics.median(side.seconds[1:]) for name, side in sides.items()}  # the first warms up
    for name, side in sides.items():
        between = f"{min(side.seconds[1:]):.3f}-{max(side.seconds[1:]):.3f}"
        collate = 1e3 * statistics.median(side.collating[1:])
        ratio = middle["padded"] / middle[name]
        print(
            f"{name:14}{side.cells:8,}{middle[name]:9.3f}{between:>17}{ratio:10.2f}{collate:12.1f}{side.losses[-1]:10.5f}"
        )
    apart = max(abs(a - b) for side in sides.values() for a, b in zip(side.losses, sides["padded"].losses, strict=True))
    print(f"losses of all {options.rounds + 1} steps differ by at most {apart:.1e}")


if __name__ == "__main__":
    main()
