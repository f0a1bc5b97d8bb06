"""The only place where the two phases differ: how examples become a batch, and a batch a loss.

A task has examples; ``collate`` makes a batch of some of them, ``weight`` says over how many things (target tokens, or
pairs) its loss is averaged, ``step`` runs the model and returns the *sum* of the loss, and ``summary`` turns sums over
many batches into the figures that people read. Sums, so that the mean is exact over any number of batches and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlhfcli.core import losses
from rlhfcli.core.layout import Layout, lay_out
from rlhfcli.core.reward_model import spans
from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.recipe.schema import Reward

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Batch:
    """Some examples, ready for the model.

    Args:
        layout: Their tokens.
        at: Indices into the flattened tokens of what is read: where a label is predicted, or a score looked at.
        target: What belongs to each: the label of a prediction; for scores, which pooled value it goes into.
        examples: How many examples.
        extra: Numbers per example: the margins of pairs.
        rows: Which examples, by their number in the data.
    """

    layout: Layout
    at: Tensor
    target: Tensor
    examples: int
    extra: Tensor
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = (self.at.to(device), self.target.to(device), self.examples, self.extra.to(device), self.rows)
        return Batch(self.layout.to(device), *moved)


Sums = dict[str, Tensor]  # scalars that may be added up over batches; "loss" is among them


class Task(Protocol):
    """What the loop knows of a phase."""

    name: str

    def lengths(self) -> list[int]:
        """Tokens of each example."""

    def collate(self, rows: Sequence[int]) -> Batch:
        """A batch of these examples, on the CPU."""

    def weight(self, batch: Batch) -> int:
        """Over how much the loss of a batch is averaged."""

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Run the model; sums over the batch."""

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Figures for people from sums over many batches."""

    def origin(self, row: int) -> str:
        """Where an example came from: its file and line, where the data knows."""


@runtime_checkable
class KnowsOrigins(Protocol):
    """Examples that remember where each came from, as the prepared data does."""

    def origin(self, row: int) -> str:
        """``file: line 12``."""


def origin_of(examples: object, row: int) -> str:
    """Where an example came from, else its number."""
    return examples.origin(row) if isinstance(examples, KnowsOrigins) else f"training example {row}"


class CausalLM(nn.Module):
    """A language model that computes logits only where somebody asks for them.

    Args:
        model: A transformers ``…ForCausalLM``.
        bf16: Compute in bfloat16 (the weights stay as they are).
    """

    def __init__(self, model: Any, *, bf16: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16

    def forward(self, at: Tensor, **inputs: Any) -> Tensor:
        """Logits at chosen tokens: ``(n,)`` indices into the flattened batch to ``(n, vocabulary)``."""
        with torch.autocast(at.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if "plan" in inputs:  # one row: the family's own forward can pick tokens before its head
                logits: Tensor = self.model(**inputs, logits_to_keep=at).logits[0]
                return logits
            logits = self.model(**inputs).logits
            return logits.flatten(0, 1).index_select(0, at)


class SftTask:
    """Phase 1: predict the next token of the assistant's turns (or of everything).

    Args:
        dialogues: The examples.
        loss_on: ``assistant`` or ``all``.
        packed: Whether the model computes packed rows.
        pad_id: The tokenizer's pad.
    """

    name = "sft"

    def __init__(self, dialogues: Sequence[EncodedDialogue], loss_on: str, *, packed: bool, pad_id: int) -> None:
        self.dialogues = dialogues
        self.loss_on = loss_on
        self.packed = packed
        self.pad_id = pad_id

    def lengths(self) -> list[int]:
        """Tokens of each dialogue."""
        return [len(dialogue.ids) for dialogue in self.dialogues]

    def collate(self, rows: Sequence[int]) -> Batch:
        """Lay dialogues out; a token that is learnt is predicted at the token before it."""
        dialogues = [self.dialogues[row] for row in rows]
        batch = lay_out([dialogue.ids for dialogue in dialogues], packed=self.packed, pad_id=self.pad_id)
        learnt = [
            (int(start) + max(first, 1), int(start) + last)
            for start, dialogue in zip(batch.starts, dialogues, strict=True)
            for first, last in self._learnt(dialogue)
            if last > max(first, 1)  # the very first token has nothing before it
        ]
        begins, ends = torch.tensor(learnt, dtype=torch.long).reshape(-1, 2).unbind(1)
        tokens, _ = spans(begins, ends)
        labels = batch.ids.flatten()[tokens]
        return Batch(batch, tokens - 1, labels, len(rows), torch.zeros(0), tuple(rows))

    def _learnt(self, dialogue: EncodedDialogue) -> list[tuple[int, int]]:
        return dialogue.spans if self.loss_on == "assistant" else [(0, len(dialogue.ids))]

    def weight(self, batch: Batch) -> int:
        """Number of target tokens."""
        return len(batch.target)

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Summed cross entropy and the number of right predictions."""
        loss, correct = losses.next_token(forward(at=batch.at, **batch.layout.inputs()), batch.target)
        return {"loss": loss, "correct": correct}

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Loss per token in nats, and token accuracy."""
        return {"loss": sums["loss"] / weight, "token_accuracy": sums["correct"] / weight}

    def origin(self, row: int) -> str:
        """Where a dialogue came from."""
        return origin_of(self.dialogues, row)


class RewardTask:
    """Phase 2: the chosen answer shall score higher than the rejected one.

    Args:
        pairs: The examples.
        settings: The recipe's reward section: pooling and loss.
        packed: Whether the model computes packed rows.
        pad_id: The tokenizer's pad.
    """

    name = "reward"

    def __init__(self, pairs: Sequence[EncodedPair], settings: Reward, *, packed: bool, pad_id: int) -> None:
        self.pairs = pairs
        self.pooling = settings.pooling
        self.loss = settings.loss
        self.packed = packed
        self.pad_id = pad_id

    def lengths(self) -> list[int]:
        """Tokens of each pair: the prompt counts twice."""
        return [2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in self.pairs]

    def collate(self, rows: Sequence[int]) -> Batch:
        """Lay out all chosen dialogues, then all rejected ones, and find the tokens whose scores are needed.

        For ``n`` pairs, ``target`` is the dialogue (``0 … 2n - 1``) that a score belongs to; with ``tokenwise``
        pooling the pair, and the first half of ``at`` is the chosen side, the second half the rejected one.
        """
        pairs = [self.pairs[row] for row in rows]
        sequences = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
        batch = lay_out(sequences, packed=self.packed, pad_id=self.pad_id)
        ends = torch.tensor([len(sequence) for sequence in sequences])
        if self.pooling == "tokenwise":
            window = torch.tensor([compared(pair) for pair in pairs]).repeat(2, 1)
            at, target = spans(batch.starts + window[:, 0], batch.starts + window[:, 1])
            target = target % len(pairs)
            last = batch.starts + ends - 1  # read for accuracy: the score people use
            at = torch.cat([at, last])
        else:
            answers = torch.tensor([len(pair.prompt) for pair in pairs]).repeat(2)
            begins = answers if self.pooling == "mean" else ends - 1
            at, target = spans(batch.starts + begins, batch.starts + ends)
        margins = torch.tensor([pair.margin for pair in pairs])
        return Batch(batch, at, target, len(pairs), margins, tuple(rows))

    def weight(self, batch: Batch) -> int:
        """Number of pairs."""
        return batch.examples

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Summed pairwise loss, right rankings (a tie is half right), and the scores' sums."""
        pairs = batch.examples
        scores = forward(at=batch.at, **batch.layout.inputs())
        margin = batch.extra if self.loss.margin else None
        if self.pooling == "tokenwise":
            tokens, last = scores[: -2 * pairs], scores[-2 * pairs :]
            left, right = tokens.chunk(2)
            segments = batch.target[: len(left)]
            by_token = losses.bradley_terry(
                left, right, None if margin is None else margin[segments], self.loss.label_smoothing
            )
            loss = losses.mean_by_segment(by_token, segments, pairs)
            chosen, rejected = last.chunk(2)
        else:
            chosen, rejected = losses.mean_by_segment(scores, batch.target, 2 * pairs).chunk(2)
            loss = losses.bradley_terry(chosen, rejected, margin, self.loss.label_smoothing)
        if self.loss.centering:
            loss = loss + self.loss.centering * losses.centering(chosen, rejected)
        return {"loss": loss.sum()} | _ranking(chosen.detach(), rejected.detach())

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Means over the pairs."""
        names = {"loss": "loss", "right": "accuracy", "chosen": "chosen_mean", "rejected": "rejected_mean"}
        return {name: sums[key] / weight for key, name in names.items()}

    def origin(self, row: int) -> str:
        """Where a pair came from."""
        return origin_of(self.pairs, row)


def compared(pair: EncodedPair) -> tuple[int, int]:
    """The positions that the token-wise loss compares: from the first differing token to the end of the shorter side.

    DeepSpeed-Chat goes on to the end of the longer side and so compares padding with words; that is left out.
    """
    both = min(len(pair.chosen), len(pair.rejected))
    differs = (i for i in range(both) if pair.chosen[i] != pair.rejected[i])
    first = next(differs, both - 1)  # one side is the beginning of the other: compare where the shorter one ends
    return len(pair.prompt) + first, len(pair.prompt) + both


def _ranking(chosen: Tensor, rejected: Tensor) -> Sums:
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    return {"right": right.sum(), "chosen": chosen.sum(), "rejected": rejected.sum()}
