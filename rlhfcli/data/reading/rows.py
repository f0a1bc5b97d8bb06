"""The results of reading a data file: rows with their places, placeholders of unreadable rows, and the progress."""

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
    """Stands for a row in the middle of a file that cannot be read; the other rows are not affected.

    Args:
        reason: The reason.
        start: The first characters of the row.
        invalid: Whether something is wrong with it; see ``RowProblem``.
    """

    reason: str
    start: str
    invalid: bool = True


def check_readable(row: Any) -> Any:
    """Return a row after checking that it could be read.

    Args:
        row: A row, or the ``Unreadable`` that stands for it.

    Raises:
        RowProblem: It could not be read.
    """
    if isinstance(row, Unreadable):
        raise RowProblem(row.reason, invalid=row.invalid)
    return row


class Meter:
    """Measures the progress of reading a file or other rows.

    Args:
        size: The total, in units.
        unit: The unit: ``kB`` or ``rows``.

    Attributes:
        remark: A note to the user about the reading; empty if there is none.
    """

    def __init__(self, size: int, unit: str = "rows") -> None:
        self.size = size
        self.unit = unit
        self.remark = ""
        self._position: Callable[[], int] = int

    @classmethod
    def of_file(cls, path: Path) -> Meter:
        """Make a meter for a file, in kilobytes.

        Args:
            path: The file.
        """
        return cls(-(-path.stat().st_size // 1024), "kB")

    @property
    def done(self) -> int:
        """The number of units read, at most ``size``."""
        return min(self.size, self._position())

    def follow(self, position: Callable[[], int]) -> None:
        """Set the function that returns how much has been read.

        Args:
            position: Returns the number of units read.
        """
        self._position = position


def number_rows(path: Path, rows: Iterable[Any], total: int, meter: Meter) -> Rows:
    """Number the rows of a file.

    Args:
        path: The file.
        rows: The rows as they were read.
        total: The number of rows.
        meter: Measures the progress of the reading.

    Yields:
        Each row with its place.
    """
    number = 0
    meter.follow(lambda: meter.size * number // max(1, total))
    for number, row in enumerate(rows, 1):
        yield row, Origin(printable_path(path), f"row {number}")


def printable_path(path: Path | str) -> str:
    r"""Return a path as printable text: a byte of its name that is not UTF-8 becomes ``\xff``.

    Args:
        path: The path.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    """Return the error for text in another encoding.

    Args:
        where: The place of the text.
        error: The error of decoding it.
    """
    return DataError(
        f"not UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}",
        where=where,
        hint="Convert it: iconv -f LATIN1 -t UTF-8 (or whatever it is in).",
    )
