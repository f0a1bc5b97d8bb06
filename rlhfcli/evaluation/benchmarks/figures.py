"""The figures of a benchmark: shares with the number of items and the interval beside them, and named means of these.

An item's *mark* is a number from 0 to 1: whether, or how often, the reward model ranks it as it should. The interval of
a mean of marks is Wilson's; for marks between 0 and 1 it is too wide, never too narrow, since their variance is at most
``p(1 - p)``. Means of several figures take the items of different subsets as independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhfcli.evaluation.intervals import of_weighted_sum, wilson


@dataclass(frozen=True)
class Figure:
    """A share with its 95 % interval.

    Args:
        name: A subset, a column of the leaderboard, or ``total``.
        value: The share, from 0 to 1.
        n: Number of items.
        ci95: Lower and upper end of its interval.
        mean: How it follows from other figures; empty for the mean over its own items.
    """

    name: str
    value: float
    n: int
    ci95: tuple[float, float]
    mean: str = ""


@dataclass(frozen=True)
class Figures:
    """All figures of one reward model on one benchmark.

    Args:
        benchmark: Name of the benchmark.
        subsets: The finest parts that the benchmark reports.
        columns: The columns of its leaderboard, in order.
        totals: The leaderboard's total first, then by other means that are published.
        ties: Number of items where a right and a wrong answer have the same score.
        tie_rule: What the benchmark makes of a tie.
        notes: What limits a comparison with published figures.
    """

    benchmark: str
    subsets: tuple[Figure, ...]
    columns: tuple[Figure, ...]
    totals: tuple[Figure, ...]
    ties: int = 0
    tie_rule: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain data, for a JSON file."""
        return asdict(self)


def share(name: str, marks: Sequence[float], weights: Sequence[float] | None = None, mean: str = "") -> Figure:
    """Compute the mean of marks.

    Args:
        name: Name of the figure.
        marks: One mark for each item, at least one.
        weights: Weight of each item, such as its number of comparisons; ``None``: all the same. The interval counts
            Kish's ``(Σ w)² / Σ w²`` items.
        mean: How it is computed, where its name does not say it.
    """
    weights = weights or [1.0] * len(marks)
    whole = sum(weights)
    value = sum(weight * mark for weight, mark in zip(weights, marks, strict=True)) / whole
    trials = whole**2 / sum(weight**2 for weight in weights)
    inside = min(1.0, max(0.0, value))
    return Figure(name, value, len(marks), wilson(inside * trials, trials), mean)


def mean_of(name: str, figures: Sequence[Figure], mean: str, weights: Sequence[float] | None = None) -> Figure:
    """Compute a weighted mean of figures that have no item in common.

    Args:
        name: Name of the mean.
        figures: Figures, at least one.
        mean: The mean in words.
        weights: Weight of each figure; ``None``: all the same.
    """
    weights = weights or [1.0] * len(figures)
    parts = [weight / sum(weights) for weight in weights]
    values = [figure.value for figure in figures]
    value = sum(part * own for part, own in zip(parts, values, strict=True))
    ends = of_weighted_sum(values, [figure.ci95 for figure in figures], parts)
    return Figure(name, value, sum(figure.n for figure in figures), ends, mean)


def by_group(groups: Sequence[str], marks: Sequence[float], order: Sequence[str] = ()) -> dict[str, list[float]]:
    """Collect the marks of each group.

    Args:
        groups: Group of each item.
        marks: Mark of each item.
        order: Groups that come first, where they occur; the others follow in the order of the items.

    Returns:
        Marks by group; no group is empty.
    """
    there = dict.fromkeys(groups)
    collected: dict[str, list[float]] = {group: [] for group in (*(g for g in order if g in there), *there)}
    for group, mark in zip(groups, marks, strict=True):
        collected[group].append(mark)
    return collected


def missing(figures: Mapping[str, Any], expected: Sequence[str], what: str) -> tuple[str, ...]:
    """Return a note on parts of a benchmark that the file lacks; empty if all are there.

    Args:
        figures: Parts by name.
        expected: Names of all parts.
        what: What a part is called, in the plural.
    """
    absent = [name for name in expected if name not in figures]
    return (f"{what} without items are left out of the means: {', '.join(absent)}",) if absent else ()
