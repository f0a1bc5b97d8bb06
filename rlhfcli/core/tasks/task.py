"""The only place where the two phases differ: how examples become a batch, and a batch a loss. Phase 1 stands here.

A task has examples; ``cut`` says which of them stand together in a micro-batch, ``collate`` makes a batch of them,
``weight`` says over how many things (target tokens, or preferences) its loss is averaged, ``step`` runs the model and
returns the *sum* of the loss, and ``summary`` turns sums over many batches into the figures that people read. Sums, so
that the mean is exact over any number of batches and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlhfcli.core.packing.last_layer import unique_indices
from rlhfcli.core.packing.layout import Layout, lay_out, spans
from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.data.encoding.encoded import EncodedDialogue
from rlhfcli.files.run_layout import SFT, Phase

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Batch:
    """Some examples, ready for the model.

    Args:
        layout: Their tokens.
        at: Indices into the flattened tokens of what is read: where a label is predicted, or a score looked at.
        read: The same, each once.
        target: What belongs to each: the label of a prediction; for scores, which pooled value it goes into.
        examples: How many examples.
        rows: Which examples, by their number in the data.
        extra: What else the loss needs, by name.
    """

    layout: Layout
    at: Tensor
    read: Tensor
    target: Tensor
    examples: int
    rows: tuple[int, ...]
    extra: dict[str, Tensor] = field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model's forward pass."""
        return {"at": self.at, "read": self.read} | self.layout.inputs()

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        at, read, target = (each.to(device) for each in (self.at, self.read, self.target))
        return Batch(self.layout.to(device), at, read, target, self.examples, self.rows, extra)


Sums = dict[str, Tensor]  # scalars that may be added up over batches; "loss" is among them


class Task(Protocol):
    """What the loop knows of a phase."""

    name: Phase
    accuracy: str  # which figure of its summary says how much is right
    nll: str  # which is the plain negative log-likelihood, whatever else the loss holds

    def lengths(self) -> list[int]:
        """Tokens that are computed for each example."""

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """These examples as micro-batches of so many tokens."""

    def collate(self, rows: Sequence[int]) -> Batch:
        """A batch of these examples, on the CPU."""

    def weight(self, batch: Batch) -> int:
        """Over how much the loss of a batch is averaged."""

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Run the model; sums over the batch."""

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Figures for people from sums over many batches."""

    def formula(self) -> str:
        """What the loss holds besides the nll, in words; empty where they are the same."""

    def origin(self, row: int) -> str:
        """Where an example came from: its file and line, where the data knows."""


@runtime_checkable
class KnowsOrigins(Protocol):
    """Examples that remember where each came from, as the prepared data does."""

    def origin(self, row: int) -> str:
        """``file: line 12``."""


@runtime_checkable
class KnowsTrees(Protocol):
    """Examples on disk whose tokens need not become Python's numbers to be measured."""

    def trees(self) -> Iterator[tuple[Any, Sequence[Sized]]]:
        """For each example what ``MicroBatches`` takes."""


def origin_of(examples: object, row: int) -> str:
    """Where an example came from, else its number."""
    return examples.origin(row) if isinstance(examples, KnowsOrigins) else f"training example {row}"


class SftTask:
    """Phase 1: predict the next token of the assistant's turns (or of everything).

    Args:
        dialogues: The examples.
        loss_on: ``all``: every token; else those of ``spans``, which the data was prepared for.
        packed: Whether the model computes token trees.
        pad_id: The tokenizer's pad.
    """

    name: Phase = SFT
    accuracy = "token_accuracy"
    nll = "loss"

    def __init__(self, dialogues: Sequence[EncodedDialogue], loss_on: str, *, packed: bool, pad_id: int) -> None:
        self.dialogues = dialogues
        self.loss_on = loss_on
        self.packed = packed
        self.pad_id = pad_id

    @cached_property
    def _micro_batches(self) -> MicroBatches:
        found = self.dialogues
        trees = found.trees() if isinstance(found, KnowsTrees) else ((dialogue.ids, [[]]) for dialogue in found)
        return MicroBatches(trees, packed=self.packed)

    def lengths(self) -> list[int]:
        """Tokens of each dialogue."""
        return self._micro_batches.tokens

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Micro-batches of so many tokens."""
        return self._micro_batches.cut(rows, budget)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Lay dialogues out; a token that is learnt is predicted at the token before it.

        Where dialogues part, one token of the row predicts several: it is listed in ``at`` for each of them.
        """
        dialogues = [self.dialogues[row] for row in rows]
        batch = lay_out([dialogue.ids for dialogue in dialogues], packed=self.packed, pad_id=self.pad_id)
        learnt = [
            (number, max(first, 1), last)
            for number, dialogue in enumerate(dialogues)
            for first, last in self._learnt(dialogue)
            if last > max(first, 1)  # the very first token has nothing before it
        ]
        sequence, begins, ends = torch.tensor(learnt, dtype=torch.long).reshape(-1, 3).unbind(1)
        places, which = spans(begins, ends)
        labels = batch.ids.flatten()[batch.index[sequence[which], places]]
        at = batch.index[sequence[which], places - 1]
        return Batch(batch, at, unique_indices(at), labels, len(rows), tuple(rows))

    def _learnt(self, dialogue: EncodedDialogue) -> list[tuple[int, int]]:
        return [(0, len(dialogue.ids))] if self.loss_on == "all" else dialogue.spans

    def weight(self, batch: Batch) -> int:
        """Number of target tokens."""
        return len(batch.target)

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Summed cross entropy and the number of right predictions."""
        loss, correct = forward(**batch.inputs(), labels=batch.target)
        return {"loss": loss, "correct": correct}

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Loss per token in nats, and token accuracy."""
        return {"loss": sums["loss"] / weight, "token_accuracy": sums["correct"] / weight}

    def formula(self) -> str:
        """Nothing: the loss is the nll."""
        return ""

    def origin(self, row: int) -> str:
        """Where a dialogue came from."""
        return origin_of(self.dialogues, row)
