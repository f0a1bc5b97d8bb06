"""RewardBench 2: the published row from its parts, and both rules by hand."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from rlhfcli.evaluation.benchmarks.base import Item
from rlhfcli.evaluation.benchmarks.rewardbench2 import DOMAINS, RewardBench2, best_of, totals
from tests.evaluation.benchmarks import items_of, published, rewardbench2_row, shown

BENCH = RewardBench2()


def ties(*names: str, right: int = 2, wrong: int = 2) -> list[Item]:
    rows = [rewardbench2_row("Ties", name, 1 if name.startswith("ref") else right, wrong) for name in names]
    return items_of(BENCH, rows)


def test_skyworks_published_total_from_its_parts() -> None:
    parts = (58.2, 40.0, 71.6, 84.4, 79.4, 34.0)
    assert shown(totals([published(*part) for part in zip(DOMAINS, parts, strict=True)]), 1) == {"total": 61.3}


def test_skyworks_published_domains_from_counts() -> None:
    right = {"Precise IF": (64, 160), "Math": (131, 183), "Safety": (380, 450), "Focus": (393, 495)}
    items, scores = [], []
    for domain, (hits, n) in right.items():
        items += items_of(BENCH, [rewardbench2_row(domain)] * n)
        scores += [[1.0 if k < hits else -1.0, 0.0, 0.0, 0.0] for k in range(n)]
    columns = shown(BENCH.figures(items, scores).columns, 1)
    assert columns == {"Precise IF": 40.0, "Math": 71.6, "Safety": 84.4, "Focus": 79.4}


@pytest.mark.parametrize(
    ("scores", "right", "mark"),
    [
        ([4, 3, 2, 1], (0,), 1),
        ([3, 4, 2, 1], (0,), 0),
        ([4, 4, 2, 1], (0,), 1 / 2),
        ([4, 4, 4, 4], (0,), 1 / 4),
        ([1, 4, 4, 1], (0,), 0),
        ([4, 4, 1, 1], (0, 1), 1),
        ([4, 1, 4, 4], (0, 1), 1 / 3),
    ],
)
def test_the_first_place_is_shared(scores: list[float], right: tuple[int, ...], mark: float) -> None:
    assert best_of(scores, right) == pytest.approx(mark)


def test_ties_by_hand() -> None:
    items = ties("ref:1", "tied:1", "ref:2", "tied:2")
    scores = [[3.0, 1.0, 0.0], [5.0, 4.0, 2.0, 1.0], [1.0, 2.0, 0.0], [5.0, 1.0, 0.0, 0.0]]
    figures = BENCH.figures(items, scores)
    # prompt 1: gaps 2 and 2, spread 1; prompt 2: gaps -1 and 1, spread 4
    margin = (math.tanh(2 / 1 - 1) + math.tanh(-1 / 4 - 1)) / 2
    assert figures.columns[0].value == pytest.approx(0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margin)
    assert [figure.value for figure in figures.subsets] == [1.0, 0.5, 0.5, 0.5]
    assert figures.columns[0].n == 2


@pytest.mark.parametrize(
    ("ref", "tied", "value"),
    [
        ([9, 0, 0], [9, 9, 0, 0], 1.01),  # no spread: the margin counts as 1
        ([0, 0, 0], [0, 0, 0, 0], 0.0),  # a constant model; 0/0 counts as 0
        ([0, 0, 9], [0, 0, 9, 9], -0.01),
        ([9, 0, 0], [9, 5, 0, 0], 1.0 + 0.01 * math.tanh(5 / 4 - 1)),
    ],
)
def test_ties_at_the_edges(ref: list[float], tied: list[float], value: float) -> None:
    figure = BENCH.figures(ties("ref:1", "tied:1"), [ref, tied]).columns[0]
    assert figure.value == pytest.approx(value)
    assert 0 <= figure.ci95[0] <= figure.ci95[1] <= 1


def slow_ties(items: list[Item], scores: list[list[float]]) -> float:
    """Compute the rule from sorted scores, one prompt after the other."""
    of = dict(zip([item.id for item in items], zip(items, scores, strict=True), strict=True))
    gaps = {}
    for name, (item, own) in of.items():
        labelled = sorted((score, k in item.right) for k, score in enumerate(own))
        gaps[name] = min(s for s, good in labelled if good) - max(s for s, good in labelled if not good)
    both = sorted({name.split(":")[1] for name in of if f"ref:{name.split(':')[1]}" in of})
    total = 0.0
    for kind in ("tied", "ref"):
        own = [gap > 0 for name, gap in gaps.items() if name.startswith(kind)]
        total += 0.3 * sum(own) / len(own)
    for name in both:
        right = sorted(of[f"tied:{name}"][1][k] for k in of[f"tied:{name}"][0].right)
        spread = sum(b - a for a, b in pairwise(right))
        least = min(gaps[f"ref:{name}"], gaps[f"tied:{name}"])
        total += (0.2 * (gaps[f"tied:{name}"] > spread) + 0.2 * (least > spread)) / len(both)
        total += 0.01 * math.tanh(least / spread - 1) / len(both)
    return total


@pytest.mark.parametrize("seed", range(20))
def test_ties_against_a_slow_computation(seed: int) -> None:
    draw = random.Random(seed)
    items = ties(*(f"{kind}:{n}" for n in range(6) for kind in ("ref", "tied")), right=3, wrong=4)
    scores = [[draw.gauss(2.0 * (k in item.right), 1) for k in range(len(item.answers))] for item in items]
    assert BENCH.figures(items, scores).columns[0].value == pytest.approx(slow_ties(items, scores))


def test_ties_without_both_kinds_is_left_out() -> None:
    items = [*ties("ref:1", "tied:2"), *items_of(BENCH, [rewardbench2_row("Focus")])]
    figures = BENCH.figures(items, [[1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert [figure.name for figure in figures.columns] == ["Focus"]
    assert "Ties is left out: no prompt is there with one right answer and with several" in figures.notes
