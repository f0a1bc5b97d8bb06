"""JudgeBench: published rows from their counts, ties, and both halves."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.evaluation.benchmarks.judgebench import CATEGORIES, JudgeBench
from tests.evaluation.benchmarks import by_mean, hits, items_of, judgebench_row, shown, write

BENCH = JudgeBench()
SOURCES = {
    "Knowledge": ("mmlu-pro-law", 154),
    "Reasoning": ("livebench-reasoning", 98),
    "Math": ("livebench-math", 56),
    "Coding": ("livecodebench", 42),
}


@pytest.mark.parametrize(
    ("right", "categories", "total"),
    [
        ((92, 65, 47, 21), (59.74, 66.33, 83.93, 50.00), 64.29),  # Skywork-Reward-Gemma-2-27B
        ((91, 63, 43, 21), (59.09, 64.29, 76.79, 50.00), 62.29),  # Skywork-Reward-Llama-3.1-8B
        ((97, 52, 36, 23), (62.99, 53.06, 64.29, 54.76), 59.43),  # GRM-Gemma-2B
        ((96, 68, 37, 21), (62.34, 69.39, 66.07, 50.00), 63.43),  # InternLM2-20B-Reward
    ],
)
def test_published_rows(right: tuple[int, ...], categories: tuple[float, ...], total: float) -> None:
    items, scores = [], []
    for (source, n), hit in zip(SOURCES.values(), right, strict=True):
        for label in ("A>B", "B>A"):
            half = n // 2
            own, given = hits(BENCH, hit // 2 + (hit % 2 if label == "A>B" else 0), half, judgebench_row(source, label))
            items += own
            scores += given
    figures = BENCH.figures(items, scores)
    assert shown(figures.columns) == dict(zip(CATEGORIES, categories, strict=True))
    assert by_mean(figures)["share of all pairs"] == total
    assert figures.totals[0].n == 350
    assert figures.notes == ()


def test_skyworks_other_mean() -> None:
    assert round((59.74 + 66.33 + 83.93 + 50.00) / 4, 1) == 65.0  # in Skywork-Reward-V2's paper


def test_of_equal_scores_the_second_answer_wins() -> None:
    items = items_of(BENCH, [judgebench_row(label="A>B"), judgebench_row(label="B>A"), judgebench_row(label="B>A")])
    figures = BENCH.figures(items, [[0.5, 0.5]] * 3)
    assert (figures.totals[0].value, figures.ties) == (pytest.approx(2 / 3), 3)
    assert figures.notes[0] == "3 pairs, not the 350 or 270 of a whole half"
    assert figures.tie_rule == "of two equal scores the second answer wins"


def test_the_halves_are_told_apart_by_their_files(tmp_path: Path) -> None:
    row = {key: value for key, value in judgebench_row().items() if key != "response_model"}
    for half in ("claude", "gpt"):
        write(tmp_path / "data" / f"{half}-00000-of-00001.jsonl", [row])
    assert [item.group for item in BENCH.read(tmp_path)] == ["claude", "gpt"]


def test_both_halves_are_apart() -> None:
    rows = [judgebench_row(), judgebench_row(response_model="claude"), judgebench_row(response_model="claude")]
    figures = BENCH.figures(items_of(BENCH, rows), [[1, 0], [0, 1], [1, 0]])
    assert shown(figures.totals[::2]) == {"gpt-4o-2024-05-13: total": 100.0, "claude: total": 50.0}
