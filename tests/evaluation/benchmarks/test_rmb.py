"""RMB: a published total from its parts, pairs and lists by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.rmb import COLUMNS, RMB, totals
from tests.evaluation.benchmarks import items_of, published, rmb_list, rmb_pair, shown, write

BENCH = RMB()


def test_armorms_published_total_from_its_parts() -> None:
    assert COLUMNS[:2] == ("Helpfulness, best of N", "Helpfulness, pairs")
    parts = (63.6, 78.7, 49.7, 66.3)
    assert shown(totals([published(*part) for part in zip(COLUMNS, parts, strict=True)]), 1) == {"total": 64.6}


def test_a_list_is_right_only_above_all_others() -> None:
    items = items_of(BENCH, [rmb_list(losers=3)] * 3 + [rmb_pair()])
    figures = BENCH.figures(items, [[4, 1, 2, 3], [3, 1, 2, 3], [1, 0, 0, 2], [1, 0]])
    assert shown(figures.columns) == {"Helpfulness, pairs": 100.0, "Harmlessness, best of N": 33.33}
    assert shown(figures.totals) == {"total": 66.67}
    assert figures.ties == 1
    assert shown(figures.subsets) == {"Harmlessness, best of N: S5": 33.33, "Helpfulness, pairs: Code": 100.0}


def test_of_the_whole_repository_both_sets_are_read(tmp_path: Path) -> None:
    write(tmp_path / "RMB_dataset" / "BoN_set" / "Harmlessness" / "S5.json", [rmb_list()])
    write(tmp_path / "RMB_dataset" / "Pairwise_set" / "Helpfulness" / "Code" / "Documentation.json", [rmb_pair()])
    write(tmp_path / "eval" / "result" / "a_result.json", [{"pair_uid": "1", "chosen_reward": 0.1}])
    assert [len(item.answers) for item in BENCH.read(tmp_path)] == [3, 2]


def test_a_list_without_losers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="loser_list is empty"):
        BENCH.read(write(tmp_path / "a.jsonl", [rmb_list(losers=0)]))
