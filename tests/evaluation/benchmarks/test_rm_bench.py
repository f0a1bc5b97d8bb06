"""RM-Bench: published rows by both means, and the matrix by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.evaluation.benchmarks.rm_bench import DIFFICULTIES, DOMAINS, RMBench, totals
from tests.evaluation.benchmarks import items_of, published, rm_bench_row, shown, write

BENCH = RMBench()


@pytest.mark.parametrize(
    ("domains", "difficulties", "both"),
    [
        ((69.5, 60.6, 54.5, 95.7), (89.0, 74.7, 46.6), (70.1, 70.1)),  # Skywork-Reward-Llama-3.1-8B
        ((66.3, 65.6, 56.8, 94.8), (91.8, 76.1, 44.8), (70.9, 70.9)),  # INF-ORM-Llama3.1-70B
    ],
)
def test_published_rows(domains: tuple[float, ...], difficulties: tuple[float, ...], both: tuple[float, float]) -> None:
    found = totals(
        [published(*part) for part in zip(DOMAINS, domains, strict=True)],
        [published(*part) for part in zip(DIFFICULTIES, difficulties, strict=True)],
    )
    assert tuple(round(100 * figure.value, 1) for figure in found) == both
    assert [figure.mean for figure in found] == ["mean of the domains", "mean of easy, normal and hard"]


def test_the_matrix_by_hand() -> None:
    # right answers 5, 3, 1; wrong ones 4, 2, 0: chosen > rejected in (0,*), (1,1), (1,2), (2,2)
    figures = BENCH.figures(items_of(BENCH, [rm_bench_row("code")]), [[5, 3, 1, 4, 2, 0]])
    assert shown(figures.columns, 1) == {"Code": 66.7, "Easy": 0.0, "Normal": 100.0, "Hard": 100.0}
    longer = BENCH.figures(items_of(BENCH, [rm_bench_row("code")]), [[1, 2, 3, 1, 2, 3]])  # likes style alone
    assert shown(longer.columns, 1) == {"Code": 33.3, "Easy": 100.0, "Normal": 0.0, "Hard": 0.0}
    assert longer.ties == 1


def test_safety_pools_its_parts_and_both_means_are_equal() -> None:
    rows = [rm_bench_row("safety-refuse")] * 3 + [rm_bench_row("safety-response"), rm_bench_row("chat")]
    good, bad = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    figures = BENCH.figures(items_of(BENCH, rows), [good, good, good, bad, bad])
    values = {figure.name: figure.value for figure in figures.columns}
    assert (values["Safety"], values["Chat"]) == (0.75, 0.0)
    assert shown(figures.subsets) == {"safety-refuse": 100.0, "safety-response": 0.0}
    assert [figure.value for figure in figures.totals] == pytest.approx([0.375, 0.375])


def test_the_file_of_all_rows_is_read_alone(tmp_path: Path) -> None:
    write(tmp_path / "chat_filtered.json", [rm_bench_row()])
    write(tmp_path / "total_dataset.json", [rm_bench_row(), rm_bench_row("math")])
    assert [item.group for item in BENCH.read(tmp_path)] == ["Chat", "Math"]
    (tmp_path / "total_dataset.json").unlink()
    assert [item.group for item in BENCH.read(tmp_path)] == ["Chat"]
