"""Measure what engine and loop cost: the same training in a bare torch loop, and through DeepSpeed and our loop.

    python benchmarks/overhead.py                          8 pairs a step, OPT-125M's shape, random weights, float32
    python benchmarks/overhead.py --lengths FILE.csv       your lengths: prompt_tokens,chosen_tokens,rejected_tokens
    python benchmarks/overhead.py --width 192 --layers 4   another shape

All sides train the same reward model on the same micro-batches with the same schedule, clipping and fused AdamW. Each
is a process of its own; they take turns step by step, in another order every round, and one computes while the others
wait. CPU seconds are those of the whole process from the end of one step to the end of the next, so nothing that a
side does in between is left out. Losses are compared step by step.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from layout import VOCABULARY, preferences
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForSequenceClassification, OPTConfig

from rlhfcli.core.engine.engine import Engine, parameter_groups, schedule_factor
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.training.loop import Loop, LoopSettings
from rlhfcli.core.training.metrics_log import Journal
from rlhfcli.core.training.step_plan import plan_steps
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import DeepspeedSection, Recipe

SIDES = ("bare", "stage 0", "stage 1")
WARM_UP = 2  # steps whose time does not count


def section(stage: int) -> DeepspeedSection:
    """Return a section with a raw setting, so that one rank takes this stage and no other."""
    own = {"zero_optimization": {"round_robin_gradients": False}} if stage else {}
    return DeepspeedSection(zero_stage=stage, config=own)


class Turns(Silent):
    """Waits for its turn before each step, and reports the time and the loss of the step."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.done = 0

    def wait(self) -> None:
        self.pipe.recv()
        self.wall, self.cpu = time.perf_counter(), getattr(self, "cpu", time.process_time())

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        if done > self.done:  # a step may be reported more than once
            cpu = time.process_time()
            self.pipe.send((time.perf_counter() - self.wall, cpu - self.cpu, metrics["loss"]))
            self.done, self.cpu = done, cpu
            self.wait()


def recipe(options: argparse.Namespace, folder: str) -> Recipe:
    phase = {"batch_size": options.pairs, "micro_batch_tokens": options.budget, "learning_rate": 1e-5}
    return Recipe.model_validate(
        {
            "output_dir": folder, "model": {"name": "unused"}, "data": {"sources": [{"path": "unused"}]},
            "reward": phase, "eval": {"every": 10**9}, "logging": {"every": 1},
        }
    )  # fmt: skip


def model(options: argparse.Namespace) -> RewardModel:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=options.width, ffn_dim=4 * options.width, word_embed_proj_dim=options.width,
        num_hidden_layers=options.layers, num_attention_heads=options.width // 64, max_position_embeddings=4096,
        dropout=0.0, attention_dropout=0.0, num_labels=1,
    )  # fmt: skip
    return RewardModel(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), bf16=options.bf16)


def work(side: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Train in this process, one step at each turn."""
    torch.set_num_threads(options.threads)
    rows = preferences(options)
    with TemporaryDirectory() as folder:
        settings, module, turns = recipe(options, folder), model(options), Turns(pipe)
        task, few = (RewardTask(part, settings.reward, packed=True, pad_id=1) for part in (rows, rows[:1]))
        with attention(module.model, TREES):
            if side == "bare":
                bare(settings, module, task, turns)
            else:
                of_loop = LoopSettings(
                    settings.seed, settings.reward, settings.eval, settings.logging, settings.checkpoint,
                    settings.reward.micro_batch_tokens,
                )  # fmt: skip
                loop = Loop(of_loop, (task, few), Journal(Path(folder)), turns)
                with Engine(module, settings.reward, len(loop.steps), section(int(side[-1]))) as engine:
                    turns.wait()
                    loop.run(engine)


def bare(settings: Recipe, module: nn.Module, task: RewardTask, turns: Turns) -> None:
    """Train as one would write it without an engine."""
    phase = settings.reward
    steps = plan_steps(task, phase, settings.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(module, phase.weight_decay), lr=phase.learning_rate, betas=phase.betas, fused=True
    )
    schedule = LambdaLR(optimizer, schedule_factor(phase.schedule, len(steps)))
    parameters = list(module.parameters())
    module.train()
    turns.wait()
    for number, rows in enumerate(steps, 1):
        batches = [task.collate(part) for part in task.cut(rows, phase.micro_batch_tokens)]
        weight = sum(task.weight(batch) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = task.step(module, batch)["loss"]
            (loss / weight).backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(parameters, phase.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        turns.advance(number, {"loss": total / weight})


def race(options: argparse.Namespace) -> dict[str, list[tuple[float, float, float]]]:
    """Return wall seconds, CPU seconds and loss of every step of every side."""
    context = mp.get_context("spawn")
    pipes, processes = {}, []
    for side in options.sides:
        pipes[side], other = context.Pipe()
        processes.append(context.Process(target=work, args=(side, options, other), daemon=True))
        processes[-1].start()
        other.close()
    taken: dict[str, list[tuple[float, float, float]]] = {side: [] for side in options.sides}
    for number, side in turns_of(options.sides, options.steps):
        pipes[side].send(None)
        taken[side].append(pipes[side].recv())
        print(f"step {number:3} {side:8} {taken[side][-1][0]:7.3f} s {taken[side][-1][1]:7.3f} CPU s", flush=True)
    for process in processes:
        process.terminate()
    return taken


def turns_of(sides: list[str], steps: int) -> Iterator[tuple[int, str]]:
    for number in range(steps):
        first = number % len(sides)
        yield from ((number + 1, side) for side in [*sides[first:], *sides[:first]])


def show(taken: dict[str, list[tuple[float, float, float]]]) -> None:
    print(f"{'':10}{'CPU s':>9}{'range':>17}{'/ bare':>9}{'wall s':>10}{'range':>17}{'/ bare':>9}{'loss apart':>12}")
    base = next(iter(taken.values()))
    for side, steps in taken.items():
        cells = ""
        for column, width in ((1, 9), (0, 10)):
            seconds, of_base = ([step[column] for step in each[WARM_UP:]] for each in (steps, base))
            # round by round: other load on the machine then affects all sides
            ratio = statistics.median(a / b for a, b in zip(seconds, of_base, strict=True))
            between = f"{min(seconds):.3f}-{max(seconds):.3f}"
            cells += f"{statistics.median(seconds):{width}.3f}{between:>17}{ratio:9.3f}"
        apart = max(abs(a[2] - b[2]) for a, b in zip(steps, base, strict=True))
        print(f"{side:10}{cells}{apart:12.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--pairs", type=int, default=8, help="of a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a micro-batch")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.answers, options.preferences = 2, options.pairs * (options.steps + 1)  # the last turn only begins
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    show(race(options))


if __name__ == "__main__":
    main()
