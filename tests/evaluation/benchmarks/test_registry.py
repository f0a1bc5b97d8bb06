"""Which benchmark a file is; files that are none, another one, or damaged; scores that are missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.registry import BENCHMARKS, find, load, named
from tests.evaluation.benchmarks import (
    hh_row,
    judgebench_row,
    one_row_of_each,
    ppe_answers,
    rewardbench2_row,
    rewardbench_row,
    rm_bench_row,
    rmb_list,
    write,
)

ROWS = one_row_of_each()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_each_benchmark_is_found_in_every_format(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([ROWS[name]] * 2), path)
    else:
        write(path, [ROWS[name]] * 2)
    local = load(tmp_path)
    assert (local.benchmark.name, len(local.items), local.skipped) == (name, 2, ())
    assert find(path) is named(name)


@pytest.mark.parametrize("name", ROWS)
def test_no_row_is_of_two_benchmarks(name: str) -> None:
    assert [each.name for each in BENCHMARKS if each.recognise(ROWS[name])] == [name]


def test_other_rows_of_a_benchmark_are_recognised() -> None:
    for row, name in ((rmb_list(), "rmb"), (ppe_answers(), "ppe"), (rewardbench2_row("Ties", "ref:1"), "rewardbench2")):
        assert [each.name for each in BENCHMARKS if each.recognise(row)] == [name]


@pytest.mark.parametrize(
    ("rows", "expected", "message"),
    [
        (
            [judgebench_row()],
            "rewardbench2",
            "{path}: this looks like JudgeBench, not RewardBench 2\nRewardBench 2 has id, prompt, chosen, rejected, "
            "num_correct, subset (allenai/reward-bench-2).",
        ),
        (
            [rewardbench_row()],
            "rm-bench",
            "{path}: this looks like RewardBench 1, not RM-Bench\n"
            "RM-Bench has prompt, chosen, rejected, domain (THU-KEG/RM-Bench).",
        ),
        (
            [{"question": "Why?", "answer": "So."}],
            None,
            "{path}: this is no benchmark that is known: its rows have question, answer\nKnown: RewardBench 1, "
            "RewardBench 2, RM-Bench, JudgeBench, RMB, PPE, HH's test files.",
        ),
        (
            [{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "subset": "mine"}],
            None,
            "{path}: this is no benchmark that is known: its rows have prompt, chosen, rejected, subset\nKnown: "
            "RewardBench 1, RewardBench 2, RM-Bench, JudgeBench, RMB, PPE, HH's test files.",
        ),
        (
            [hh_row(), rm_bench_row()],
            None,
            "{path}: line 2: this is no row of HH's test files: it has id, prompt, domain, chosen, rejected\n"
            "HH's test files has chosen, rejected (Anthropic/hh-rlhf, test.jsonl.gz of each folder).",
        ),
        (
            [rm_bench_row(chosen=["one", "two"])],
            None,
            "{path}: line 1: chosen has 2 answers instead of 3\nDownload the file again.",
        ),
        (
            [rewardbench_row(chosen=None) | {"chosen": "a", "rejected": None}],
            None,
            "{path}: line 1: rejected is null, not text\nDownload the file again.",
        ),
        (
            [judgebench_row("arena")],
            None,
            "{path}: line 1: source is 'arena', none of mmlu-pro, livebench-reasoning, livebench-math, livecodebench\n"
            "Download the file again.",
        ),
        (
            [judgebench_row(label="A=B")],
            None,
            "{path}: line 1: label is 'A=B', neither A>B nor B>A\nDownload the file again.",
        ),
        (
            [rewardbench2_row("Ties", "3")],
            None,
            "{path}: line 1: id is '3'; prompts of Ties are ref:N or tied:N\nDownload the file again.",
        ),
    ],
)
def test_errors(rows: list[dict[str, Any]], expected: str | None, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path, named(expected) if expected else None, strict=True)
    assert str(caught.value) == message.format(path=path)


def test_errors_of_paths_and_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="the folder holds no data files"):
        load(tmp_path)
    with pytest.raises(DataError, match=re.escape("there is no benchmark named 'mt-bench'")):
        named("mt-bench")


def test_unscored_items_are_counted_and_left_out() -> None:
    bench = named("rewardbench")
    rows = [rewardbench_row(id=number) for number in range(4)]
    items = [item for row in rows for item in bench.items(row, Path())]
    figures = bench.figures(items, [[1, 0], None, [float("nan"), 0], [1, 0]])
    assert (figures.columns[0].value, figures.columns[0].n) == (1.0, 2)
    assert figures.notes[0] == "2 of 4 items could not be scored and are left out: 1, 2"
    with pytest.raises(DataError, match="no item of RewardBench 1 could be scored"):
        bench.figures(items, [None] * 4)
    with pytest.raises(ValueError, match="1 scores for 2 answers"):
        bench.figures(items, [[1], None, None, None])


@pytest.mark.parametrize("bench", BENCHMARKS, ids=lambda each: each.name)
def test_perfect_and_reversed_models(bench: Any) -> None:
    row = ROWS[bench.name]
    items = bench.items(row, Path("helpful-base/test.jsonl"))
    perfect = [[float(k in item.right) for k in range(len(item.answers))] for item in items]
    reversed_ = [[-score for score in own] for own in perfect]
    assert {figure.value for figure in bench.figures(items, perfect).totals} == {1.0}
    assert {figure.value for figure in bench.figures(items, reversed_).totals} == {0.0}


def test_figures_as_json_have_sizes_and_intervals() -> None:
    bench = named("hh")
    figures = bench.figures(bench.items(hh_row(), Path()), [[1, 0]]).as_json()
    assert figures["benchmark"] == "hh"
    assert set(figures["totals"][0]) == {"name", "value", "n", "ci95", "mean"}
