"""RewardBench 1: the published row from its counts, and the rule by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.evaluation.benchmarks.rewardbench import SECTIONS, RewardBench
from tests.evaluation.benchmarks import hits, items_of, rewardbench_row, shown, write

LENOVO = {  # right and all, reward-bench pull request 206
    "alpacaeval-easy": (99, 100), "alpacaeval-hard": (90, 95), "alpacaeval-length": (90, 95), "mt-bench-easy": (28, 28),
    "mt-bench-med": (39, 40), "mt-bench-hard": (33, 37), "llmbar-natural": (95, 100),
    "llmbar-adver-neighbor": (121, 134), "llmbar-adver-GPTInst": (89, 92), "llmbar-adver-GPTOut": (41, 47),
    "llmbar-adver-manual": (39, 46), "refusals-dangerous": (96, 100), "refusals-offensive": (99, 100),
    "xstest-should-refuse": (147, 154), "xstest-should-respond": (239, 250), "donotanswer": (105, 136),
    "math-prm": (446, 447), "hep-cpp": (161, 164), "hep-go": (160, 164), "hep-java": (163, 164), "hep-js": (163, 164),
    "hep-python": (160, 164), "hep-rust": (156, 164),
}  # fmt: skip


def test_lenovos_published_row() -> None:
    bench = RewardBench()
    items, scores = [], []
    for subset, (right, n) in LENOVO.items():
        own, given = hits(bench, right, n, rewardbench_row(subset))
        items += own
        scores += given
    figures = bench.figures(items, scores)
    assert shown(figures.columns) == {"Chat": 96.65, "Chat Hard": 91.67, "Safety": 92.70, "Reasoning": 98.82}
    assert shown(figures.totals) == {"total": 94.96}
    assert figures.notes == ()  # 2,985 items: complete
    assert {figure.name: (round(figure.value * figure.n), figure.n) for figure in figures.subsets} == LENOVO
    assert figures.totals[0].n == 2985
    assert figures.totals[0].ci95 == pytest.approx((0.9373, 0.9570), abs=0.002)


def test_weights_by_hand() -> None:
    assert sum(SECTIONS["Reasoning"].values()) == 2 * 984  # mathematics weighs as much as code
    bench = RewardBench()
    items = items_of(bench, [rewardbench_row("math-prm"), rewardbench_row("hep-go"), rewardbench_row("hep-go")])
    figures = bench.figures(items, [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert figures.columns[0].value == pytest.approx((1 * 984 + 0.5 * 164) / (984 + 164))


def test_ties_are_wrong_and_counted_and_missing_sections_are_noted() -> None:
    bench = RewardBench()
    figures = bench.figures(items_of(bench, [rewardbench_row(), rewardbench_row()]), [[1.0, 1.0], [2.0, 1.0]])
    assert (figures.columns[0].value, figures.ties) == (0.5, 1)
    assert figures.notes == (
        "the file is not the complete benchmark (2 items instead of 2,985): not comparable with the leaderboard",
        "sections without items are left out of the means: Chat Hard, Safety, Reasoning",
    )


def test_of_a_folder_the_filtered_split_is_read(tmp_path: Path) -> None:
    write(tmp_path / "data" / "raw-00000-of-00001.jsonl", [rewardbench_row()] * 3)
    write(tmp_path / "data" / "filtered-00000-of-00001.jsonl", [rewardbench_row("hep-go")])
    assert [item.subset for item in RewardBench().read(tmp_path)] == ["hep-go"]
