"""HH's test files: parts, ties and rows that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.hh import HH
from rlhfcli.evaluation.benchmarks.registry import load
from tests.evaluation.benchmarks import by_mean, hh_row, items_of, shown, write

BENCH = HH()


def test_parts_and_both_means_by_hand() -> None:
    items = items_of(BENCH, [hh_row()] * 3, "hh-rlhf/helpful-base/test.jsonl.gz")
    items += items_of(BENCH, [hh_row()], "hh-rlhf/harmless-base/test.jsonl.gz")
    figures = BENCH.figures(items, [[1, 0], [1, 0], [0, 1], [1, 1]])
    assert shown(figures.columns) == {"harmless-base": 50.0, "helpful-base": 66.67}
    assert by_mean(figures) == {"share of all pairs": 62.5, "mean of the parts": 58.33}


def test_a_constant_model_gets_half() -> None:
    figures = BENCH.figures(items_of(BENCH, [hh_row()] * 4), [[0.0, 0.0]] * 4)
    assert (figures.totals[0].value, figures.ties, figures.tie_rule) == (0.5, 4, "a tie counts half")


def test_the_folder_as_it_is_downloaded(tmp_path: Path) -> None:
    for part in ("helpful-base", "harmless-base"):
        folder = tmp_path / part
        folder.mkdir()
        for name in ("test", "train"):
            with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.write(json.dumps(hh_row(name)) + "\n")
    local = load(tmp_path)
    assert [(item.subset, item.answers[0]) for item in local.items] == [
        ("harmless-base", "test"),
        ("helpful-base", "test"),
    ]
    assert [turn.role for turn in local.items[0].prompt] == ["user", "assistant", "user"]


def test_rows_that_differ_early_are_counted_or_end_it(tmp_path: Path) -> None:
    other = {"chosen": hh_row()["chosen"], "rejected": "\n\nHuman: Bye\n\nAssistant: Bye."}
    file = write(tmp_path / "helpful-base" / "test.jsonl", [hh_row(), other])
    local = load(file)
    assert len(local.items) == 1
    assert local.skipped == (f"{file}: line 2: the dialogues differ before the last answer",)
    with pytest.raises(DataError, match="differ before the last answer"):
        load(file, strict=True)
