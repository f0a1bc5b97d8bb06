"""What a training is going to do, what it did since its last line of figures, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepPlan:
    """The arithmetic of a phase.

    Args:
        examples: Training examples.
        steps: Optimizer steps.
        per_step: Examples per step.
        micro_batches: Largest number of micro-batches of a step on one rank.
        tokens: Tokens of all steps.
    """

    examples: int
    steps: int
    per_step: int
    micro_batches: int
    tokens: int


@dataclass
class Result:
    """What came out of training.

    Args:
        steps: Optimizer steps made.
        loss: Mean training loss of the last logging window.
        evaluation: Figures on the validation part after the last step.
        seconds: Wall time of the steps and evaluations.
        tokens: Tokens trained on.
        history: Every line of ``metrics.jsonl``.
        best: Where the recipe asks for the best step: ``step``, and ``by``, what it was the best in. Then
            ``evaluation`` has its figures, and its weights are what is saved.
    """

    steps: int = 0
    loss: float = float("nan")
    evaluation: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


@dataclass
class Window:
    """Sums since the last line of ``metrics.jsonl``."""

    loss: float = 0.0
    weight: int = 0
    tokens: int = 0
    seconds: float = 0.0
    last_tokens: int = 0

    def add(self, loss: float, weight: int, tokens: int, seconds: float) -> None:
        """One more step."""
        self.loss += loss
        self.weight += weight
        self.tokens += tokens
        self.seconds += seconds
        self.last_tokens = tokens
