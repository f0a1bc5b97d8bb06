"""Pre-training of the embedded base model: model, batches, schedule, steps. ``build.py`` writes the result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from random import Random
from typing import Any

from rlhfcli.tiny.plain_text import plain_text
from rlhfcli.tiny.tokenizer import VOCABULARY

POSITIONS = 512
TOKENS_PER_STEP = 2048
LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 150
CHUNK_DOCUMENTS = 4096


def new_model(seed: int) -> Any:
    """Make the model with random weights.

    Args:
        seed: Seed of the initial weights.

    Returns:
        An ``OPTForCausalLM`` of four layers, 192 wide, input and output embeddings tied.
    """
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        ffn_dim=768,
        word_embed_proj_dim=192,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    model = OPTForCausalLM(config)
    # On a CPU, eager attention is a third faster for rows this short; the saved folder does not record it.
    model.set_attn_implementation("eager")
    return model


def batches(tokenizer: Any, seed: int) -> Iterator[list[list[int]]]:
    """Make batches without end: documents of similar length together, to reduce padding.

    Args:
        tokenizer: Puts ``</s>`` in front of each text; the one at the end is added here.
        seed: Seed of the documents and their order.

    Yields:
        Documents as ids; their number times the longest length is at most ``TOKENS_PER_STEP``.
    """
    rng = Random(f"batches {seed}")
    chunk = 0
    while True:
        texts = list(plain_text(CHUNK_DOCUMENTS, seed * 100_003 + chunk))
        encoded = tokenizer(texts, truncation=True, max_length=POSITIONS - 1)["input_ids"]
        documents = [[*ids, tokenizer.eos_token_id] for ids in encoded]
        documents.sort(key=len)
        ready: list[list[list[int]]] = [[]]
        for document in documents:
            if (len(ready[-1]) + 1) * len(document) > TOKENS_PER_STEP:
                ready.append([])
            ready[-1].append(document)
        rng.shuffle(ready)
        yield from ready
        chunk += 1


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to zero.

    Args:
        step: The step, from 0.
        steps: Number of steps.
    """
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * done))


def _loss(model: Any, documents: list[list[int]]) -> Any:
    """Return the mean next-token loss of a batch; padding on the right needs no mask in a causal model."""
    import torch

    longest = max(map(len, documents))
    ids = torch.tensor([document + [1] * (longest - len(document)) for document in documents], device=model.device)
    with torch.autocast(model.device.type, torch.bfloat16):
        logits = model(input_ids=ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=1)


class Progress:
    """Counts steps, and prints loss, tokens per second and remaining time from time to time."""

    def __init__(self, steps: int) -> None:
        self.steps, self.tokens, self.start = steps, 0, time.perf_counter()
        self.losses: list[float] = []

    @property
    def seconds(self) -> float:
        """Return the seconds since the first step."""
        return time.perf_counter() - self.start

    @property
    def recent_loss(self) -> float:
        """Return the mean loss of the last hundred steps."""
        return sum(self.losses[-100:]) / len(self.losses[-100:])

    def step(self, number: int, loss: float, tokens: int) -> None:
        """Count a step; print every fiftieth and the last one.

        Args:
            number: Steps made, from 1.
            loss: Mean loss of the step, in nats per token.
            tokens: Tokens of the step.
        """
        self.losses.append(loss)
        self.tokens += tokens
        if number % 50 == 0 or number == self.steps:
            left = self.seconds / number * (self.steps - number)
            print(
                f"step {number:5d} of {self.steps} · loss {self.recent_loss:.3f} · "
                f"{self.tokens / self.seconds:,.0f} tokens/s · {left / 60:.1f} min left",
                flush=True,
            )


def pretrain(model: Any, tokenizer: Any, steps: int, seed: int) -> Progress:
    """Train the model in place.

    Args:
        model: From ``new_model``.
        tokenizer: From ``train_tokenizer``.
        steps: Optimizer steps, over which the schedule extends.
        seed: Seed of the data.

    Returns:
        Counts and losses.
    """
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    source, progress = batches(tokenizer, seed), Progress(steps)
    model.train()
    for step in range(steps):
        documents = next(source)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = _loss(model, documents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.step(step + 1, float(loss.detach()), sum(map(len, documents)))
    return progress
