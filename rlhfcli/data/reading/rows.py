"""What a data file gives: rows with their places, and rows that cannot even be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.errors import DataError

Rows = Iterator[tuple[Any, Origin]]


@dataclass(frozen=True)
class Unreadable:
    """Stands for a row in the middle of a file that cannot even be read; the other rows are not touched by it.

    Args:
        reason: What is wrong with it.
        start: Its first characters.
        invalid: Whether something is wrong with it; see ``RowProblem``.
    """

    reason: str
    start: str
    invalid: bool = True


def check_readable(row: Any) -> Any:
    """A row that could be read.

    Raises:
        RowProblem: It could not.
    """
    if isinstance(row, Unreadable):
        raise RowProblem(row.reason, invalid=row.invalid)
    return row


class Meter:
    """How far the reading of a file, or of other rows, is.

    Args:
        size: All of it.
        unit: What is counted.

    Attributes:
        remark: What the user is to know of how it was read; empty where that is nothing.
    """

    def __init__(self, size: int, unit: str = "rows") -> None:
        self.size = size
        self.unit = unit
        self.remark = ""
        self._position: Callable[[], int] = int

    @classmethod
    def of_file(cls, path: Path) -> Meter:
        """For a file, in kilobytes."""
        return cls(-(-path.stat().st_size // 1024), "kB")

    @property
    def done(self) -> int:
        """How much has been read, at most ``size``."""
        return min(self.size, self._position())

    def follow(self, position: Callable[[], int]) -> None:
        """Ask this from now on how much has been read."""
        self._position = position


def number_rows(path: Path, rows: Iterable[Any], total: int, meter: Meter) -> Rows:
    """Rows whose number is known.

    Args:
        path: Their file.
        rows: As they were read.
        total: How many there are.
        meter: Is told how far the reading is.

    Yields:
        Each with its place.
    """
    number = 0
    meter.follow(lambda: meter.size * number // max(1, total))
    for number, row in enumerate(rows, 1):
        yield row, Origin(printable_path(path), f"row {number}")


def printable_path(path: Path | str) -> str:
    r"""A path that can be written anywhere: a byte of its name that is not UTF-8 becomes ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    """The error for text in another encoding."""
    return DataError(
        f"not UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}",
        where=where,
        hint="Convert it: iconv -f LATIN1 -t UTF-8 (or whatever it is in).",
    )
