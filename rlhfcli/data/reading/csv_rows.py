"""Read CSV with commas, semicolons or tabs. A row that cannot be read is reported, and does not affect the others."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.reading.rows import Rows, Unreadable, not_utf8, printable_path
from rlhfcli.errors import DataError

_DELIMITERS = ",;\t|"
_QUOTES = 'Close every quote: "…"; a quote inside is doubled: "say ""hi""".'


class _Lines(Iterator[str]):
    """Iterates over the lines of a file, and remembers those of the current row.

    Args:
        lines: The lines, in UTF-8; other bytes become lone surrogates, which are found later.
    """

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._returned: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._decoded(next(self._lines))
        self.number += 1
        self.taken.append(line)
        return line

    def reread(self, kept: int = 0) -> None:
        """Return lines of the current row, which are read again.

        Args:
            kept: The number of its first lines that stay read.
        """
        others = self.taken[kept:]
        self._returned.extendleft(reversed(others))
        self.number -= len(others)
        self.taken = self.taken[:kept]

    def _decoded(self, line: bytes) -> str:
        return line.decode("utf-8-sig" if self.number == 0 else "utf-8", "surrogateescape")


class _CsvProblem(Exception):
    """A row that cannot be used.

    Args:
        what: The reason.
        hint: The remedy.
        invalid: Whether something is wrong with the row itself.
    """

    def __init__(self, what: str, hint: str, *, invalid: bool = True) -> None:
        super().__init__(what)
        self.hint = hint
        self.invalid = invalid


def csv_rows(path: Path, lines: Iterator[bytes], *, tabs: bool = False) -> Rows:
    """Read the rows below a header.

    Args:
        path: The file.
        lines: The lines of the file.
        tabs: Whether tabs separate the fields, by the file's name; if not, the header shows the separator.

    Yields:
        Each row with its number; ``Unreadable`` for one that cannot be read, unless it is the first.

    Raises:
        DataError: The header or the first row cannot be read.
    """
    csv.field_size_limit(sys.maxsize)
    feed, place = _Lines(lines), printable_path(path)
    header: list[str] = []
    for number, record in enumerate(_records(feed, tabs=tabs)):
        ends = f" (ends on line {feed.number})"
        start = "".join(feed.taken)
        try:
            fields = _fields(record, start)
            if number == 0:
                header = _header(fields)
                continue
            row: dict[str, str] | Unreadable = _row(header, fields)
        except _CsvProblem as problem:
            if number < 2:  # then the file is hardly what its name says
                where = f"{place}: {'row 1' if number else 'the header'}{ends}"
                raise DataError(str(problem), where=where, hint=problem.hint) from None
            row = Unreadable(f"{problem}{ends}", start, problem.invalid)
        yield row, Origin(place, f"row {number}")


def _records(feed: _Lines, *, tabs: bool) -> Iterator[list[str] | csv.Error]:
    """Yield the fields of each row, those of the header first; an error for a row that cannot be split."""
    first = next(feed, "")
    while first and not first.strip():  # blank lines above the header
        first = next(feed, "")
    feed.taken = [first]
    feed.reread()
    delimiter = "\t" if tabs else max(_DELIMITERS, key=first.count)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken = []
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if len(feed.taken) > 1:  # its quote was never closed
                feed.reread(1)
                reader = csv.reader(feed, delimiter=delimiter, strict=True)
            yield error
            continue
        if record:
            yield record


def _fields(record: list[str] | csv.Error, text: str) -> list[str]:
    if isinstance(record, csv.Error):
        raise _CsvProblem(f"not CSV: {record}", _QUOTES)
    try:
        text.encode("utf-8", "surrogateescape").decode()
    except UnicodeDecodeError as error:
        found = not_utf8("", error)
        raise _CsvProblem(found.what, str(found.hint)) from None
    return record


def _header(fields: list[str]) -> list[str]:
    """Return the names of the columns."""
    names = [name.strip() for name in fields]
    for name in names:
        if name and names.count(name) > 1:
            raise _CsvProblem(f"the header names the column {name} twice", "Give each column a name of its own.")
    return names


def _row(header: list[str], fields: list[str]) -> dict[str, str]:
    if [field.strip() for field in fields] == header:
        hint = "Is this one file appended to itself?"
        raise _CsvProblem("the header stands here once more", hint, invalid=False)
    kept = fields[: len(header)]
    if len(kept) == len(header) and not any(fields[len(header) :]):  # programs write commas at the end, too
        return dict(zip(header, kept, strict=True))
    many = "more" if len(fields) > len(header) else "fewer"
    what = f"the row has {many} fields than the header's {len(header)}"
    raise _CsvProblem(what, 'Quote fields that hold commas or line breaks: "…".')
