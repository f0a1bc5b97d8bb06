"""The table of all benchmarks, and which of them a local file or folder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.turns import describe_type
from rlhfcli.data.reading.files import read_rows
from rlhfcli.data.reading.rows import Unreadable
from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, data_files
from rlhfcli.evaluation.benchmarks.hh import HH
from rlhfcli.evaluation.benchmarks.judgebench import JudgeBench
from rlhfcli.evaluation.benchmarks.ppe import PPE
from rlhfcli.evaluation.benchmarks.rewardbench import RewardBench
from rlhfcli.evaluation.benchmarks.rewardbench2 import RewardBench2
from rlhfcli.evaluation.benchmarks.rm_bench import RMBench
from rlhfcli.evaluation.benchmarks.rmb import RMB
from rlhfcli.words import shortened

BENCHMARKS: tuple[Benchmark, ...] = (RewardBench(), RewardBench2(), RMBench(), JudgeBench(), RMB(), PPE(), HH())
"""All benchmarks; a row is of the first that recognises it, and no row of one is recognised by another."""
_KNOWN = ", ".join(each.title for each in BENCHMARKS)


@dataclass(frozen=True)
class LocalBenchmark:
    """A benchmark whose files were read.

    Args:
        benchmark: The benchmark, with its rule.
        items: Its items, at least one.
        skipped: Place and reason of the rows that cannot be used.
    """

    benchmark: Benchmark
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()


def named(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Args:
        name: Such as ``rewardbench2``.

    Raises:
        DataError: There is none of that name.
    """
    for benchmark in BENCHMARKS:
        if benchmark.name == name.lower():
            return benchmark
    names = ", ".join(each.name for each in BENCHMARKS)
    raise DataError(f"there is no benchmark named {name!r}", hint=f"Known: {names}.")


def find(path: Path) -> Benchmark:
    """Recognise which benchmark a file or folder is, by the columns of its first row.

    Args:
        path: A local file, or a folder as it was downloaded.

    Raises:
        DataError: Nothing is there, it cannot be read, or it is none that is known.
    """
    file = data_files(path)[0]
    row = _first_row(file)
    found = _of_row(row)
    if found is None:
        raise DataError(f"this is no benchmark that is known: its rows {_has(row)}", str(file), f"Known: {_KNOWN}.")
    return found


def load(path: Path, expected: Benchmark | None = None, *, strict: bool = False) -> LocalBenchmark:
    """Read the items of a benchmark from local files.

    Args:
        path: A file or a folder.
        expected: The benchmark that it should be; ``None``: any.
        strict: Whether a row that cannot be used is an error.

    Raises:
        DataError: It is no benchmark, or not the expected one; or its files cannot be read.
    """
    found = find(path)
    if expected is not None and found is not expected:
        columns = f"{expected.title} has {', '.join(expected.columns)} ({expected.source})."
        raise DataError(f"this looks like {found.title}, not {expected.title}", str(path), columns)
    skipped: list[str] = []
    items = found.read(path, None if strict else skipped)
    return LocalBenchmark(found, tuple(items), tuple(skipped))


def _first_row(file: Path) -> Any:
    return next((row for row, _ in read_rows(file) if not isinstance(row, Unreadable)), None)


def _of_row(row: Any) -> Benchmark | None:
    if not isinstance(row, Mapping):
        return None
    return next((benchmark for benchmark in BENCHMARKS if benchmark.recognise(row)), None)


def _has(row: Any) -> str:
    return f"have {shortened(list(map(str, row)), 12)}" if isinstance(row, Mapping) else f"are {describe_type(row)}"
