"""Data files as rows with their line or row number; what is wrong with a file is named by its place."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from rlhfcli.data.dialogue import Origin
from rlhfcli.data.turns import RowProblem
from rlhfcli.errors import DataError

Rows = Iterator[tuple[Any, Origin]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
KNOWN = f"Known: {', '.join(SUFFIXES)}, and .gz of any."
_AGAIN = "Download or export it again."
_WANTED = 'A JSON file holds a list of rows, [{"prompt": …}, …], or one row on each line (.jsonl).'


@dataclass(frozen=True)
class Unreadable:
    """Stands for a row in the middle of a file that cannot even be read; the other rows are not touched by it.

    Args:
        reason: What is wrong with it.
        start: Its first characters.
        fault: Whether something is wrong with it; see ``RowProblem``.
    """

    reason: str
    start: str
    fault: bool = True


def readable(row: Any) -> Any:
    """A row that could be read.

    Raises:
        RowProblem: It could not.
    """
    if isinstance(row, Unreadable):
        raise RowProblem(row.reason, fault=row.fault)
    return row


class Meter:
    """How far the reading of a file, or of other rows, is.

    Args:
        size: All of it.
        unit: What is counted.
    """

    def __init__(self, size: int, unit: str = "rows") -> None:
        self.size = size
        self.unit = unit
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


def without_packing(path: Path) -> Path:
    """The name without ``.gz``."""
    return path.with_suffix("") if path.suffix == ".gz" else path


def is_data_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return without_packing(path).suffix.lower() in SUFFIXES


def read_rows(path: Path, meter: Meter | None = None) -> Rows:
    """Read a file row by row.

    Args:
        path: ``.jsonl .json .csv .parquet .arrow``, or ``.gz`` of these.
        meter: Is told how far the reading is.

    Yields:
        Each row as it was read, with its place; ``Unreadable`` for one that cannot be read, unless it is the first.

    Raises:
        DataError: The file is missing, empty, not readable, or not what its name says.
    """
    kind = without_packing(path).suffix.lower()
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    empty = True
    meter = meter or Meter(0)
    try:
        with path.open("rb") as raw:
            meter.follow(lambda: raw.tell() // 1024)
            with gzip.open(raw) if path.suffix == ".gz" else nullcontext(raw) as file:
                for row in readers[kind](path, cast("IO[bytes]", file), meter):
                    empty = False
                    yield row
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the .gz file is damaged: {error}", where=str(path), hint=_AGAIN) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}",
            where=str(path),
            hint="Check its permissions (ls -l).",
        ) from None
    finally:
        meter.follow(lambda: meter.size)
    if empty:
        raise DataError("the file has no rows", where=str(path), hint="Was its download or its export interrupted?")


def _json_lines(path: Path, file: IO[bytes], _: Meter) -> Rows:
    first = True
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = _parse_line(path, number, line)
        except DataError as error:
            if first:  # then the file is hardly what its name says
                raise
            row = Unreadable(error.what, line[:1000].decode(errors="replace"))
        first = False
        yield row, Origin(str(path), f"line {number}")


def _parse_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(_decoded(path, number, line))
    except json.JSONDecodeError as error:
        hint = "Mend the line, or take it out. Each line must be one whole JSON object."
        if number == 1 and error.pos >= len(line.rstrip()) - 1 and line.lstrip()[:1] in (b"[", b"{"):
            hint = "If the file is one JSON document over many lines, give it the ending .json."
        where = f"{path}:{number}:{error.colno}"
        raise DataError(f"not JSON: {error.msg}: {_around(error)}", where=where, hint=hint) from None


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{path}:{number}", error) from None


def _json(path: Path, file: IO[bytes], meter: Meter) -> Rows:
    text = file.read().decode("utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            file.seek(0)
            yield from _json_lines(path, file, meter)  # JSON Lines under the other name is common
            return
        raise DataError(
            f"not JSON: {error.msg}: {_around(error)}",
            where=f"{path}:{error.lineno}:{error.colno}",
            hint=_WANTED,
        ) from None
    if not isinstance(rows, list):
        what = f"an object with {', '.join(rows)}" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise DataError(f"the JSON file is not a list of rows but {what[:200]}", where=str(path), hint=_WANTED)
    yield from _counted(path, rows, len(rows), meter)


def _counted(path: Path, rows: Iterable[Any], total: int, meter: Meter) -> Rows:
    """Rows whose number is known."""
    number = 0
    meter.follow(lambda: meter.size * number // max(1, total))
    for number, row in enumerate(rows, 1):
        yield row, Origin(str(path), f"row {number}")


def _csv(path: Path, file: IO[bytes], _: Meter) -> Rows:
    csv.field_size_limit(sys.maxsize)
    # Not the whole file at once: it may be large.
    lines = (_decoded(path, number, line) for number, line in enumerate(file, 1))
    reader = csv.DictReader(lines, strict=True)
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            origin = Origin(str(path), f"row {number}")
            if None not in row and None not in row.values():
                yield row, origin
                continue
            many = "more" if None in row else "fewer"
            what = f"the row has {many} fields than the header's {len(reader.fieldnames or [])}"
            place = f" (ends on line {reader.line_num})"
            if number == 1:
                hint = 'Quote fields that hold commas or line breaks: "…".'
                raise DataError(what, where=f"{origin}{place}", hint=hint)
            yield Unreadable(what + place, str([value for value in row.values() if value is not None])), origin
    except csv.Error as error:
        hint = 'Close every quote: "…"; a quote inside is doubled: "say ""hi""".'
        raise DataError(f"not CSV: {error}", where=f"{path}: after row {number}", hint=hint) from None


def _parquet(path: Path, file: IO[bytes], meter: Meter) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        # Whole compressed files are no use for Parquet, which reads from its end; but they do occur.
        table = parquet.ParquetFile(pyarrow.BufferReader(file.read()) if path.suffix == ".gz" else path)
        rows = (row for batch in table.iter_batches(1024) for row in batch.to_pylist())
        yield from _counted(path, rows, table.metadata.num_rows, meter)
    except pyarrow.ArrowException as error:
        what = str(error).splitlines()[0]
        raise DataError(f"not a Parquet file: {what}", where=str(path), hint=_AGAIN) from None


def _arrow(path: Path, file: IO[bytes], meter: Meter) -> Rows:
    """Both of Arrow's formats: datasets writes its caches and ``save_to_disk`` as streams."""
    import pyarrow

    try:
        content = pyarrow.BufferReader(file.read()) if path.suffix == ".gz" else pyarrow.memory_map(str(path))
        try:
            table = pyarrow.ipc.open_stream(content).read_all()  # its columns stay in the file
        except pyarrow.ArrowInvalid:
            content.seek(0)
            table = pyarrow.ipc.open_file(content).read_all()
        rows = (row for begin in range(0, len(table), 1024) for row in table.slice(begin, 1024).to_pylist())
        yield from _counted(path, rows, len(table), meter)
    except (pyarrow.ArrowException, OSError) as error:
        what = str(error).splitlines()[0]
        raise DataError(f"not an Arrow file: {what}", where=str(path), hint=_AGAIN) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"not UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}",
        where=where,
        hint="Convert it: iconv -f LATIN1 -t UTF-8 (or whatever it is in).",
    )


def _around(error: json.JSONDecodeError) -> str:
    """What stands at the place of the error."""
    begin = max(0, error.pos - 15)
    return repr(error.doc[begin : error.pos + 15])
