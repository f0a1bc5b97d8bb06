"""The interface between the training loop and a phase: a task turns examples into batches, and a batch into a loss.

``cut`` decides which examples go into the same micro-batch, ``collate`` makes a batch of them, ``weight`` counts what
the loss is averaged over (target tokens, or preferences), ``step`` runs the model and returns the *sum* of the loss,
and ``summary`` turns sums over many batches into the figures that people read. Sums, so that the mean is exact over any
number of batches and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rlhfcli.core.movable import Movable
from rlhfcli.core.packing.layout import Layout
from rlhfcli.files.run_layout import Phase

Forward = Callable[..., Any]
Sums = dict[str, Tensor]  # scalars that may be added up over batches; "loss" is among them


@dataclass(frozen=True)
class Batch(Movable):
    """Some examples, ready for the model. Each phase adds the tensors that its loss needs.

    Args:
        layout: Their tokens.
        positions: ``(n,)`` indices into the flattened tokens: where the model's output is needed.
        unique_positions: ``(at most n,)`` the same indices, each once.
        examples: Number of examples.
        rows: Their numbers in the data.
    """

    layout: Layout
    positions: Tensor
    unique_positions: Tensor
    examples: int
    rows: tuple[int, ...]

    def inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of the model's forward pass."""
        return {"positions": self.positions, "unique_positions": self.unique_positions} | self.layout.inputs()


class Task(Protocol):
    """The interface of a phase."""

    name: Phase
    accuracy: str  # the figure of the summary that is the share of right predictions
    nll: str  # the figure that is the plain negative log-likelihood, whatever the loss adds to it

    def lengths(self) -> list[int]:
        """Return how many tokens are computed for each example."""

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Cut examples into micro-batches.

        Args:
            rows: Numbers of the examples, each once.
            budget: Tokens that a micro-batch may have; a larger example gets one of its own.
        """

    def collate(self, rows: Sequence[int]) -> Batch:
        """Make a batch of examples, on the CPU.

        Args:
            rows: Numbers of the examples.
        """

    def weight(self, batch: Any) -> int:
        """Return the number of target tokens, or of preferences, that the loss of a batch is averaged over.

        Args:
            batch: Made by ``collate``.
        """

    def step(self, forward: Forward, batch: Any) -> Sums:
        """Run the model and return sums over the batch.

        Args:
            forward: The model's forward pass.
            batch: Made by ``collate``, on the model's device.
        """

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Turn sums over many batches into figures for people.

        Args:
            sums: The results of ``step``, added up by name.
            weight: The batches' weights, added up.
        """

    def formula(self) -> str:
        """Describe how the loss differs from the nll; empty where they are the same."""

    def origin(self, row: int) -> str:
        """Return the file and line that an example came from, where the data records them.

        Args:
            row: Number of the example.
        """


@runtime_checkable
class KnowsOrigins(Protocol):
    """Examples that remember where each came from, as the prepared data does."""

    def origin(self, row: int) -> str:
        """Return ``file: line 12``.

        Args:
            row: Number of the example.
        """


@runtime_checkable
class KnowsTrees(Protocol):
    """Examples on disk whose lengths can be read without a Python number for each token."""

    def trees(self) -> Iterator[tuple[Any, Sequence[Sized]]]:
        """Yield for each example what ``MicroBatches`` takes."""


def origin_of(examples: object, row: int) -> str:
    """Return where an example came from, or its number where the data does not record it.

    Args:
        examples: All examples.
        row: Number of one of them.
    """
    return examples.origin(row) if isinstance(examples, KnowsOrigins) else f"training example {row}"
