"""Find the best evaluation of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhfcli.core.tasks.task import Task
from rlhfcli.recipe.schema import CheckpointSection


@dataclass(frozen=True)
class BestCriterion:
    """The figure by which evaluations are compared.

    Args:
        metric: Name of the figure that decides, as in ``metrics.jsonl``.
        higher_is_better: Whether a larger value is better.
    """

    metric: str
    higher_is_better: bool

    @property
    def description(self) -> str:
        """The criterion in words, such as ``lowest loss on the validation part``."""
        name = self.metric.removeprefix("eval_").replace("_", " ")
        return f"{'highest' if self.higher_is_better else 'lowest'} {name} on the validation part"

    def better(self, found: Mapping[str, float], before: Mapping[str, float]) -> bool:
        """Return whether an evaluation is better than the best one before it; an equal one is not.

        Args:
            found: Figures of the evaluation; without ``metric``, or with NaN, it is no better.
            before: Figures of the best evaluation so far; empty if there is none.
        """
        new, old = found.get(self.metric, math.nan), before.get(self.metric, math.nan)
        if math.isnan(old):
            return not math.isnan(new)
        return new > old if self.higher_is_better else new < old

    def evaluations_since(self, lines: Sequence[Mapping[str, float]]) -> int:
        """Count the evaluations since the best one; that of step 0 does not count.

        Args:
            lines: Lines of ``metrics.jsonl``, with or without an evaluation.
        """
        best: Mapping[str, float] = {}
        since = 0
        for line in lines:
            if self.metric in line and line["step"] > 0:
                since = 0 if self.better(line, best) else since + 1
                best = line if since == 0 else best
        return since


def best_by(section: CheckpointSection, task: Task) -> BestCriterion | None:
    """Return the criterion that the recipe asks for.

    Args:
        section: The recipe's checkpoint section.
        task: The task, which names its negative log-likelihood and its accuracy.

    Returns:
        The criterion; ``None`` if the last step is saved, however good it is.
    """
    if section.best_by is None:
        return None
    if section.best_by == "loss":  # without centering and smoothing, which do not measure how well answers are ranked
        return BestCriterion(f"eval_{task.nll}", higher_is_better=False)
    return BestCriterion(f"eval_{task.accuracy}", higher_is_better=True)
