"""Intervals cover the truth as often as they say, also of weighted means of small parts near 100 %."""

from __future__ import annotations

import random

import pytest

from rlhfcli.evaluation.benchmarks.figures import mean_of, share
from rlhfcli.evaluation.intervals import of_weighted_sum, wilson


def test_one_share_alone_keeps_its_interval() -> None:
    ends = wilson(81, 263)
    assert of_weighted_sum([81 / 263], [ends], [1.0]) == pytest.approx(ends)


def test_newcombes_example() -> None:
    # difference 56/70 - 48/80 (Statistics in Medicine 17, 1998, table II a, method 10): 0.0524 to 0.3339
    first, second = wilson(56, 70), wilson(48, 80)
    turned = (-second[1], -second[0])
    assert of_weighted_sum([0.8, -0.6], [first, turned], [1.0, 1.0]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("truth", [(0.5, 0.5, 0.5), (0.97, 0.9, 0.6), (0.99, 0.99, 0.98)])
def test_intervals_of_means_cover_the_truth(truth: tuple[float, ...]) -> None:
    draw = random.Random(3)
    sizes, weights = (28, 95, 450), (1.0, 1.0, 2.0)
    exact = sum(weight * p for weight, p in zip(weights, truth, strict=True)) / sum(weights)
    covered = 0
    for _ in range(500):
        parts = [share("part", [float(draw.random() < p) for _ in range(n)]) for p, n in zip(truth, sizes, strict=True)]
        low, high = mean_of("total", parts, "", weights).ci95
        covered += low <= exact <= high
    assert covered / 500 >= 0.93


def test_intervals_of_fractional_marks_cover_the_truth() -> None:
    draw = random.Random(5)
    covered = 0
    for _ in range(500):
        low, high = share("part", [draw.betavariate(4, 2) for _ in range(60)]).ci95
        covered += low <= 4 / 6 <= high
    assert covered / 500 >= 0.93
