"""PPE: a published row by both means, votes, and sampled pairs by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.ppe import HUMAN, PPE, totals
from tests.evaluation.benchmarks import PPE_COLUMNS, items_of, ppe_answers, ppe_vote, published, shown, write

BENCH = PPE()


def test_internlms_published_means_from_its_parts() -> None:
    parts = {"MMLU-Pro": 67.5, "MATH": 70.3, "GPQA": 57.5, "MBPP-Plus": 57.6, "IFEval": 62.5, HUMAN: 61.0}
    found = totals({name: published(name, value) for name, value in parts.items()})
    assert shown(found, 1) == {"correctness": 63.1, "total": 62.7}


def test_votes_that_are_ties_do_not_count() -> None:
    rows = [ppe_vote(winner) for winner in ("model_a", "model_b", "tie", "tie (bothbad)")]
    items = items_of(BENCH, rows)
    assert [item.right for item in items] == [(0,), (1,)]
    assert shown(BENCH.figures(items, [[1, 0], [1, 0]]).totals) == {HUMAN: 50.0}


@pytest.mark.parametrize("which", PPE_COLUMNS)
def test_each_set_is_known_by_its_columns(which: str) -> None:
    assert [item.subset for item in items_of(BENCH, [ppe_answers(which)])] == [which]


def test_sampled_pairs_by_hand() -> None:
    (item,) = items_of(BENCH, [ppe_answers(scores=[True, False, False, True, True])])
    assert item.answers == ("MATH answer 1", "MATH answer 2", "MATH answer 3", "MATH answer 4")  # the fifth is in none
    assert item.comparisons() == [(0, 1), (3, 2)]
    figures = BENCH.figures([item], [[5.0, 1.0, 3.0, 2.0]])
    assert (figures.columns[0].value, figures.columns[0].n) == (0.5, 1)


def test_a_figure_is_the_share_of_all_pairs() -> None:
    three = ppe_answers() | {"sampled_conflict_pairs": [[0, 1], [0, 2], [3, 1]]}
    one = ppe_answers() | {"sampled_conflict_pairs": [[0, 1]]}
    items = items_of(BENCH, [three, one])
    figures = BENCH.figures(items, [[1, 0, 0, 1], [0, 1]])
    assert figures.columns[0].value == 3 / 4


@pytest.mark.parametrize("pairs", [[[0]], [[0, 9]], [3]])
def test_a_pair_of_answers_that_are_not_there_is_an_error(pairs: list[object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not two of 4 answers"):
        BENCH.read(write(tmp_path / "a.jsonl", [ppe_answers() | {"sampled_conflict_pairs": pairs}]))
