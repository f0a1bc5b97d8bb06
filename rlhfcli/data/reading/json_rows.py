"""Read JSON Lines, and JSON documents of several layouts: a list of rows, an object of lists or of splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.reading.file_names import is_split_word, word_of
from rlhfcli.data.reading.json_values import START, Refused, elements, is_json, objects, parse
from rlhfcli.data.reading.rows import Meter, Rows, Unreadable, not_utf8, number_rows, printable_path
from rlhfcli.errors import DataError

WANTED = 'A JSON file holds a list of rows, [{"prompt": …}, …], or one row on each line (.jsonl).'
_LISTS = ("data", "rows", "examples", "instances", "items", "samples", "records")  # where an object keeps its rows


@dataclass(frozen=True)
class WantedSplit:
    """The split to read from an object of splits.

    Args:
        splits: Names of splits; the first that exists is read.
        required: Whether a file without splits is an error.
    """

    splits: tuple[str, ...] = ("train",)
    required: bool = False


def json_lines(path: Path, lines: Iterator[bytes], meter: Meter, wanted: WantedSplit) -> Rows:
    """Read a row from each line; a file that is a single JSON document is read as such.

    Args:
        path: The file.
        lines: The lines of the file.
        meter: Measures the progress of the reading, if the lines do not.
        wanted: The split to read from a document.

    Yields:
        Each row with its line; ``Unreadable`` for one that cannot be read.

    Raises:
        DataError: Neither the first line nor the whole file is JSON.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    head = list(islice(numbered, 2))
    for number, line in chain(head, numbered):
        row: Any
        try:
            row = parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except Refused as refused:
            row = Unreadable(str(refused), _start(line))
        except ValueError as error:
            if number == head[0][0]:  # then the file is hardly what its name says
                text = b"".join(each for _, each in chain(head, numbered))
                yield from _document_instead(path, text, meter, wanted, _line_error(path, number, line, error))
                return
            row = Unreadable(_line_error(path, number, line, error).what, _start(line))
        if isinstance(row, list) and len(head) == 1:
            yield from number_rows(path, row, len(row), meter)
            return
        yield row, Origin(printable_path(path), f"line {number}")


def json_document(path: Path, content: bytes, meter: Meter, wanted: WantedSplit) -> Rows:
    """Read the rows of a JSON document; JSON Lines with the suffix ``.json`` are common, and read as such.

    Args:
        path: The file.
        content: The content of the file, in UTF-8.
        meter: Measures the progress of the reading; its remark names the splits that are not read.
        wanted: The split to read from an object of splits.

    Yields:
        Each row with its number; ``Unreadable`` for one that cannot be read.

    Raises:
        DataError: The content is not JSON, or has no such split.
    """
    text = content.decode("utf-8-sig")
    if not text.strip():
        return
    try:
        rows = _rows_of(path, parse(text), wanted, meter)
    except Refused as refused:
        if not text.lstrip().startswith("["):
            raise DataError(str(refused), where=printable_path(path), hint=WANTED) from None
        rows = _each(path, elements(text))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise _document_error(path, error) from None
        if is_json(text.lstrip().partition("\n")[0]):
            yield from json_lines(path, iter(content.splitlines(keepends=True)), meter, wanted)
            return
        rows = _each(path, objects(text))
    yield from number_rows(path, rows, len(rows), meter)


def _each(path: Path, values: Iterator[Any]) -> list[Any]:
    try:
        return list(values)
    except json.JSONDecodeError as error:
        raise _document_error(path, error) from None


def _document_instead(path: Path, content: bytes, meter: Meter, wanted: WantedSplit, otherwise: DataError) -> Rows:
    """Read a document over many lines, of which the first line alone is not JSON."""
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"[", b"{") or b"\n" not in content.strip():
        raise otherwise
    rows = json_document(path, content, meter, wanted)
    try:
        first = next(rows, None)
    except (DataError, UnicodeDecodeError):
        if content.split(b"\n", 1)[0].strip() in (b"[", b"{"):
            raise
        raise otherwise from None
    if first is not None:
        yield first
        yield from rows


# --- layouts of a document ----------------------------------------------------------------------------------


def _rows_of(path: Path, value: Any, wanted: WantedSplit, meter: Meter) -> list[Any]:
    """Return the rows of a document; the meter's remark names the splits that are not read.

    Raises:
        DataError: It has none, or no such split.
    """
    if isinstance(value, list):
        splits: Mapping[str, Any] = {}
        rows = value
    elif isinstance(value, dict):
        lists = {name: each for name, each in value.items() if _is_list_of_objects(each)}
        splits = {name: each for name, each in lists.items() if is_split_word(name) or name in wanted.splits}
        rows = [] if splits else _rows_of_object(value)
    else:
        raise DataError(
            f"the JSON file is not a list of rows but {value!r:.200}", where=printable_path(path), hint=WANTED
        )
    if not splits and not wanted.required:
        return rows
    for name in wanted.splits:
        for split, each in splits.items():
            if name.lower() in (split.lower(), word_of(split)):
                others = ", ".join(other for other in splits if other != split)
                meter.remark = f"{printable_path(path)}: reading {split}; left alone: {others}" if others else ""
                return list(each)
    hint = f"It has: {', '.join(splits)}." if splits else "Leave split out: the file has no splits."
    raise DataError(f"the file has no split {wanted.splits[0]!r}", where=printable_path(path), hint=hint)


def _rows_of_object(value: dict[str, Any]) -> list[Any]:
    """Return the rows of an object: a list in it, a table of pandas, a list for each column; else it is one row."""
    for name in _LISTS:
        if _is_list_of_objects(value.get(name)):
            return list(value[name])
    cells = list(value.values())
    columns, table = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(table, list) and all(isinstance(row, list) for row in table):
        return [dict(zip(map(str, columns), row, strict=False)) for row in table]  # pandas, orient="split"
    if cells and all(isinstance(cell, dict) and cell and all(map(str.isdecimal, cell)) for cell in cells):
        numbers = list(cells[0])
        return [{name: value[name].get(number) for name in value} for number in numbers]  # pandas' usual
    plain = all(isinstance(cell, list) and cell and not any(isinstance(x, list | dict) for x in cell) for cell in cells)
    if len(cells) > 1 and plain and len({len(cell) for cell in cells}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    return [value]


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


# --- errors -------------------------------------------------------------------------------------------------


def _line_error(path: Path, number: int, line: bytes, error: ValueError) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(f"{printable_path(path)}:{number}", error)
    assert isinstance(error, json.JSONDecodeError)
    hint = "Fix the line, or take it out. Each line must be one whole JSON object."
    if line.lstrip()[:2] in (b"{'", b"[{'"):
        hint = "JSON has double quotes: write the rows with json.dumps, not with print."
    elif line.rstrip().endswith(b","):
        hint = "Take out the commas at the ends of the lines; each line is one whole JSON object."
    return DataError(
        f"not JSON: {error.msg}: {_around(error)}", where=f"{printable_path(path)}:{number}:{error.colno}", hint=hint
    )


def _document_error(path: Path, error: json.JSONDecodeError) -> DataError:
    where = f"{printable_path(path)}:{error.lineno}:{error.colno}"
    return DataError(f"not JSON: {error.msg}: {_around(error)}", where=where, hint=WANTED)


def _around(error: json.JSONDecodeError) -> str:
    """Return the text around the place of an error."""
    begin = max(0, error.pos - 15)
    return repr(error.doc[begin : error.pos + 15])


def _start(line: bytes) -> str:
    return line[:START].decode(errors="replace").rstrip()
