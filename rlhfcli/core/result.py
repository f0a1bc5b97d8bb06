"""The plan of a training, its sums since the last line of figures, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepPlan:
    """The numbers of a phase.

    Args:
        examples: Number of training examples.
        steps: Number of optimizer steps.
        per_step: Number of examples per step.
        micro_batches: Largest number of micro-batches of a step on one rank.
        tokens: Number of tokens in all steps.
    """

    examples: int
    steps: int
    per_step: int
    micro_batches: int
    tokens: int


@dataclass
class Result:
    """The result of a training.

    Args:
        steps: Number of optimizer steps made.
        loss: Mean training loss of the last logging window.
        evaluation: Figures on the validation part after the last step, or of the best step.
        seconds: Wall time of the steps and evaluations.
        tokens: Number of tokens trained on.
        history: Every line of ``metrics.jsonl``.
        best: If the recipe asks for the best step: ``step``, and ``by``, the criterion in words. Then ``evaluation``
            has its figures, and its weights are saved.
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
    """Sums over the steps since the last line of ``metrics.jsonl``."""

    loss: float = 0.0
    weight: int = 0
    tokens: int = 0
    seconds: float = 0.0
    last_tokens: int = 0

    def add(self, loss: float, weight: int, tokens: int, seconds: float) -> None:
        """Add a step.

        Args:
            loss: Sum of the losses of the step.
            weight: Number of target tokens (or pairs) of the step.
            tokens: Number of tokens of the step.
            seconds: Duration of the step.
        """
        self.loss += loss
        self.weight += weight
        self.tokens += tokens
        self.seconds += seconds
        self.last_tokens = tokens
