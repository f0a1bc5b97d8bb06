"""Which evaluation of a training was the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhfcli.core.tasks.task import Task
from rlhfcli.recipe.schema import Checkpoint


@dataclass(frozen=True)
class BestCriterion:
    """What makes one evaluation better than another.

    Args:
        figure: The one that decides, as ``metrics.jsonl`` names it.
        highest: Whether more of it is better.
    """

    figure: str
    highest: bool

    @property
    def words(self) -> str:
        """What the best one has: ``lowest loss on the validation part``."""
        name = self.figure.removeprefix("eval_").replace("_", " ")
        return f"{'highest' if self.highest else 'lowest'} {name} on the validation part"

    def better(self, found: Mapping[str, float], before: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than the best one before; the same figure again is not.

        Args:
            found: Its figures; without the one that decides, or with one that is not a number, it is no better.
            before: Those of the best so far; empty where there is none.
        """
        new, old = found.get(self.figure, math.nan), before.get(self.figure, math.nan)
        if math.isnan(old):
            return not math.isnan(new)
        return new > old if self.highest else new < old

    def evaluations_since(self, lines: Sequence[Mapping[str, float]]) -> int:
        """How many evaluations in a row were no better than the best one before them; that of step 0 does not count.

        Args:
            lines: Of ``metrics.jsonl``, those without an evaluation among them.
        """
        best: Mapping[str, float] = {}
        since = 0
        for line in lines:
            if self.figure in line and line["step"] > 0:
                since = 0 if self.better(line, best) else since + 1
                best = line if since == 0 else best
        return since


def best_by(plan: Checkpoint, task: Task) -> BestCriterion | None:
    """What the recipe asks for.

    Args:
        plan: The recipe's checkpoint section.
        task: Knows what its nll and its accuracy are called.

    Returns:
        ``None`` where the last step is taken, however good it is.
    """
    if plan.best_by is None:
        return None
    # not by what the loss holds besides: centering and smoothing say nothing of how well answers are told apart
    return (
        BestCriterion(f"eval_{task.nll}", False)
        if plan.best_by == "loss"
        else BestCriterion(f"eval_{task.accuracy}", True)
    )
