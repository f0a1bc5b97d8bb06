"""Data files as rows with their line or row number; what is wrong with a file is named by its place."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rlhfcli.data.dialogue import Origin
from rlhfcli.errors import DataError

Rows = Iterator[tuple[Any, Origin]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_WANTED = 'A JSON file holds a list of rows, [{"prompt": …}, …], or one row on each line (.jsonl).'


def without_gz(path: Path) -> Path:
    """The name without ``.gz``."""
    return path.with_suffix("") if path.suffix == ".gz" else path


def is_data_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return without_gz(path).suffix.lower() in SUFFIXES


def read_rows(path: Path) -> Rows:
    """Read a file row by row.

    Args:
        path: ``.jsonl .json .csv .parquet``, or ``.gz`` of these.

    Yields:
        Each row as it was read, with its place.

    Raises:
        DataError: The file is missing, empty, not readable, or not what its name says.
    """
    kind = without_gz(path).suffix.lower()
    reader = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}[kind]
    empty = True
    try:
        for row in reader(path):
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the .gz file is damaged: {error}", where=str(path)) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}",
            where=str(path),
            hint="Check its permissions (ls -l).",
        ) from None
    if empty:
        raise DataError("the file has no rows", where=str(path), hint="Was its download or its export interrupted?")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _json_lines(path: Path) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse_line(path, number, line), Origin(str(path), f"line {number}")


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


def _json(path: Path) -> Rows:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _json_lines(path)  # JSON Lines under the other name is common
            return
        raise DataError(
            f"not JSON: {error.msg}: {_around(error)}",
            where=f"{path}:{error.lineno}:{error.colno}",
            hint=_WANTED,
        ) from None
    if not isinstance(rows, list):
        what = f"an object with {', '.join(rows)}" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise DataError(f"the JSON file is not a list of rows but {what[:200]}", where=str(path), hint=_WANTED)
    for number, row in enumerate(rows, 1):
        yield row, Origin(str(path), f"row {number}")


def _csv(path: Path) -> Rows:
    csv.field_size_limit(sys.maxsize)
    with _open(path) as file:
        # Not the whole file at once: it may be large.
        lines = (_decoded(path, number, line) for number, line in enumerate(file, 1))
        reader = csv.DictReader(lines, strict=True)
        number = 0
        try:
            for number, row in enumerate(reader, 1):
                if None in row or None in row.values():
                    many = "more" if None in row else "fewer"
                    raise DataError(
                        f"the row has {many} fields than the header's {len(reader.fieldnames or [])}",
                        where=f"{path}: row {number} (ends on line {reader.line_num})",
                        hint='Quote fields that hold commas or line breaks: "…".',
                    )
                yield row, Origin(str(path), f"row {number}")
        except csv.Error as error:
            raise DataError(f"not CSV: {error}", where=f"{path}: after row {number}") from None


def _parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # Whole compressed files are no use for Parquet, which reads from its end; but they do occur.
        file = parquet.ParquetFile(pyarrow.BufferReader(_open(path).read()) if path.suffix == ".gz" else path)
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield row, Origin(str(path), f"row {number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"not a Parquet file: {str(error).splitlines()[0]}", where=str(path)) from None


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
