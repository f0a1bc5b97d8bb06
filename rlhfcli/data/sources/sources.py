"""Open files, folders, data sets of the Hub and the built-in generator as streams of rows with their places."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from glob import glob
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.reading.file_names import KNOWN, is_data_file, is_in_split, label_of, without_packing
from rlhfcli.data.reading.files import read_rows
from rlhfcli.data.reading.folders import MEASURE, Choice, files_of, of_split
from rlhfcli.data.reading.json_rows import WantedSplit
from rlhfcli.data.reading.rows import Meter, printable_path
from rlhfcli.data.shapes.catalogue import find_entry
from rlhfcli.data.sources import hub
from rlhfcli.errors import DataError
from rlhfcli.files.checksums import file_hash
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import SourceSection

_AS_ROWS = (
    "If each of its lines is JSON, rename it to .jsonl; if they are fields, to .csv or .tsv. Of plain text make\n"
    'a .jsonl file with one example on each line: {"text": "…"}, or {"prompt": "…", "response": "…"}.'
)
_GENERATED = {builtin.TINY_DIALOGUES: 5000, builtin.TINY_PAIRS: 12000}  # rows where the recipe gives no limit


@dataclass(frozen=True)
class Stream:
    """The rows of one file.

    Args:
        name: The name of the file, for messages.
        rows: The rows with their places; they can be read once.
        identity: A text that differs for different content.
        meter: Measures the progress of the reading.
        note: A note to the user about the files that are read; empty if there is none.
    """

    name: str
    rows: Iterator[tuple[Any, Origin]]
    identity: str
    meter: Meter
    note: str = ""

    @classmethod
    def numbered(cls, name: str, rows: Iterable[Any], total: int, identity: str = "") -> Stream:
        """Make a stream of rows that have no line numbers.

        Args:
            name: The name of the stream, for messages.
            rows: The rows.
            total: The number of rows.
            identity: A text that differs for different content.
        """
        meter = Meter(total)
        return cls(name, _numbered(name, rows, meter), identity, meter)

    def limited(self, places: Iterator[int]) -> Stream:
        """Return the stream with no more rows than there are places.

        Args:
            places: Yields once for each row; several streams may share it.
        """
        return replace(self, rows=(row for row, _ in zip(self.rows, places, strict=False)))


def open_source(source: SourceSection, seed: int, number: int = 0) -> list[Stream]:
    """Open a source of the recipe. No rows are read yet; the files are read once for their hashes.

    Args:
        source: The recipe's entry; ``weight`` and ``phase`` are left to the caller.
        seed: The seed of generated rows.
        number: The index of the entry in the recipe, for messages.

    Returns:
        A stream for each file.

    Raises:
        DataError: The source does not exist.
    """
    if source.path.startswith(builtin.PREFIX):
        return [_generated(name, source.limit, seed) for name in _generated_names(source.path)]
    if _is_local(source.path):
        return _limited(local_streams(source.path, _choice(source, number)), source.limit)
    name, rows, identity = hub.load(source, number)
    return _limited([Stream.numbered(name, rows, len(rows), identity)], source.limit)


def local_streams(path: str, choice: Choice | None = None) -> list[Stream]:
    """Open a file, or all data files of a folder.

    Args:
        path: A file, a folder, or a pattern such as ``data/*.jsonl`` or ``data/**/*.parquet``.
        choice: The part of a folder to read; by default the one to evaluate with.

    Returns:
        A stream for each file, in alphabetical order.

    Raises:
        DataError: The path does not exist, is not a data file, or has no such part.
    """
    choice = choice or Choice(usual=MEASURE)
    found, note, wanted = Path(path).expanduser(), "", WantedSplit((choice.split,) if choice.split else choice.usual)
    if found.is_dir():
        files, note = files_of(found, choice)
    elif found.is_file():
        files = [found]
        wanted = replace(wanted, required=not _is_of(found, choice))
    elif is_pattern(path):
        files = _matching(path, choice)
    else:
        raise _missing(path, choice.number)
    streams = [_file_stream(file, wanted, alone=len(files) == 1) for file in files]
    return _not_all_empty(path, [replace(streams[0], note=note), *streams[1:]])


def _choice(source: SourceSection, number: int) -> Choice:
    """Return the part that a source asks for; the catalogue fills in what the recipe leaves open."""
    entry = find_entry(source.format) or find_entry(source.path)
    if entry is None:
        return Choice(source.split, source.subset, number=number)
    usual = (entry.split,) if entry.split == "train" else (entry.split, "train")
    return Choice(source.split, source.subset, usual, entry.subset or entry.folder, number)


def file_identity(path: Path) -> str:
    """Return a hash of a file's content.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return file_hash(path)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from None


def code_identity(package: str) -> str:
    """Return a hash of a package's Python files, since other code makes other data.

    Args:
        package: The dotted name of the package.
    """
    folder = Path(str(importlib.import_module(package).__file__)).parent
    digest = blake2b(digest_size=16)
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _limited(streams: list[Stream], limit: int | None) -> list[Stream]:
    """Let several files share one limit."""
    if limit is None:
        return streams
    places = iter(range(limit))
    return [stream.limited(places) for stream in streams]


def _numbered(name: str, rows: Iterable[Any], meter: Meter) -> Iterator[tuple[Any, Origin]]:
    number = 0
    meter.follow(lambda: number)
    for number, row in enumerate(rows, 1):
        yield row, Origin(name, f"row {number}")


def _file_stream(file: Path, wanted: WantedSplit, *, alone: bool) -> Stream:
    identity = file_identity(file)  # first: it says why a file cannot be read
    meter = Meter.of_file(file)
    return Stream(printable_path(file), read_rows(file, meter, wanted, alone=alone), identity, meter)


def _not_all_empty(path: str, streams: list[Stream]) -> list[Stream]:
    """Let a file of several be empty, but not all of them."""
    seen = 0

    def watched(stream: Stream) -> Iterator[tuple[Any, Origin]]:
        nonlocal seen
        for row in stream.rows:
            seen += 1
            yield row
        if stream is streams[-1] and seen == 0:
            hint = "Was their download or their export interrupted?"
            raise DataError(f"none of its {len(streams)} files has rows", where=path, hint=hint)

    return [replace(stream, rows=watched(stream)) for stream in streams] if len(streams) > 1 else streams


# --- the built-in generator ---------------------------------------------------------------------------------


def _generated_names(path: str) -> list[str]:
    if path == builtin.TINY:
        return list(_GENERATED)
    if path not in _GENERATED:
        raise DataError("there is no such built-in data", where=path, hint=f"There are: {', '.join(_GENERATED)}.")
    return [path]


def _generated(name: str, limit: int | None, seed: int) -> Stream:
    from rlhfcli import tiny

    count = limit or _GENERATED[name]
    rows = (
        tiny.dialogues(count, seed) if name == builtin.TINY_DIALOGUES else tiny.preference_pairs(count, seed, "train")
    )
    return Stream.numbered(name, rows, count, f"{code_identity('rlhfcli.tiny')} {count} {seed}")


# --- files --------------------------------------------------------------------------------------------------


def _is_local(path: str) -> bool:
    """A hub name is ``name`` or ``owner/name``; everything else, and whatever exists, is a path."""
    return (
        Path(path).expanduser().exists()
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or is_pattern(path)
        or is_data_file(Path(path))
    )


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern, which may match several files.

    Args:
        path: The path.
    """
    return any(sign in path for sign in "*?[")


def _is_of(file: Path, choice: Choice) -> bool:
    """Return whether a file is of the chosen split by its name; a JSON file may contain several splits.

    Raises:
        DataError: It is not a data file, or cannot contain that split.
    """
    if file.suffix.lower() == ".txt":
        raise DataError("a text file has no rows", where=printable_path(file), hint=_AS_ROWS)
    if not is_data_file(file):
        raise DataError("not a kind of data file", where=printable_path(file), hint=KNOWN)
    if choice.subset is not None:
        hint = "Leave subset out, or name the folder."
        raise DataError(f"a file has no configuration {choice.subset!r}", where=printable_path(file), hint=hint)
    label = label_of(Path(file.name))
    if choice.split is None or is_in_split(label, choice.split) or (choice.split == "train" and label.name is None):
        return True
    if without_packing(file).suffix.lower() != ".json":
        hint = "Leave split out, or name the folder."
        raise DataError(f"this file is not of the split {choice.split!r}", where=printable_path(file), hint=hint)
    return False


def _matching(pattern: str, choice: Choice) -> list[Path]:
    found = sorted(Path(name) for name in glob(str(Path(pattern).expanduser()), recursive=True))
    files = [path for path in found if path.is_file() and is_data_file(path)]
    if not files:
        others = f" (of {len(found)} that match, none is a data file)" if found else ""
        hint = f"{KNOWN} Patterns are taken from {Path.cwd()}."
        raise DataError(f"no data file matches the pattern{others}", where=pattern, hint=hint)
    if choice.subset is not None:
        hint = "Leave subset out: a pattern names the files themselves."
        raise DataError(f"a pattern has no configuration {choice.subset!r}", where=pattern, hint=hint)
    if choice.split is None:
        return files
    fixed = len(Path(pattern.partition("*")[0].partition("?")[0].partition("[")[0] + "x").parts) - 1
    named = [(file, label_of(Path(*file.parts[min(fixed, len(file.parts) - 1) :]))) for file in files]
    return of_split(Path(pattern), named, choice)


def _missing(path: str, number: int | None) -> DataError:
    found = Path(path).expanduser()
    parent = found.parent
    beside = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    near = get_close_matches(found.name, beside, 1)
    if near:
        hint = f"Did you mean {parent / near[0]}?"
    elif not parent.is_dir():
        hint = f"There is no folder {parent} either."
    else:
        hint = f"Paths are taken from the working directory, {Path.cwd()}."
    if number is not None:
        hint += " " + hub.NAME_ANOTHER.format(number=number)
    return DataError("there is no such file or folder", where=path, hint=hint)
