"""Read data files as rows with their line or row numbers; errors name the place in the file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rlhfcli.data.reading.arrow_rows import arrow_rows, parquet_rows
from rlhfcli.data.reading.csv_rows import csv_rows
from rlhfcli.data.reading.file_names import PACKED, without_packing
from rlhfcli.data.reading.json_rows import WantedSplit, json_document, json_lines
from rlhfcli.data.reading.rows import Meter, Rows, not_utf8, printable_path
from rlhfcli.errors import DataError

_AGAIN = "Download or export it again."
_START = 1 << 16  # bytes that show what a file is
_PACKING = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


def read_rows(path: Path, meter: Meter | None = None, wanted: WantedSplit | None = None, *, alone: bool = True) -> Rows:
    """Read a file row by row.

    Args:
        path: A file with one of ``SUFFIXES``, perhaps followed by one of ``PACKED``. Its content decides where the
            name is wrong.
        meter: Measures the progress of the reading.
        wanted: The split to read from a JSON object of splits.
        alone: Whether it is an error if the file has no rows.

    Yields:
        Each row as it was read, with its place; ``Unreadable`` for one that cannot be read, unless it is the first.

    Raises:
        DataError: The file is missing, empty or not readable, or its content is not what its name says.
    """
    empty, meter = True, meter or Meter(0)
    try:
        with _opened(path, meter) as (file, packed):
            for row in _rows(path, file, packed=packed, meter=meter, wanted=wanted or WantedSplit()):
                empty = False
                yield row
    except UnicodeDecodeError as error:
        raise not_utf8(printable_path(path), error) from None
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _error(path, f"the {path.suffix} file is damaged: {error}", _AGAIN) from None
    except OSError as error:
        packing = path.suffix.lower() in PACKED and error.errno is None
        what = f"the {path.suffix} file is damaged" if packing else "the file cannot be read"
        hint = _AGAIN if packing else "Check its permissions (ls -l)."
        raise _error(path, f"{what}: {error.strerror or error}", hint) from None
    finally:
        meter.follow(lambda: meter.size)
    if empty and alone:
        raise _error(path, "the file has no rows", "Was its download or its export interrupted?")


def _rows(path: Path, file: io.BufferedReader, *, packed: bool, meter: Meter, wanted: WantedSplit) -> Rows:
    kind = without_packing(path).suffix.lower()
    _refuse(path, kind, file.peek(_START)[:_START])
    if kind in (".parquet", ".arrow"):
        return (parquet_rows if kind == ".parquet" else arrow_rows)(path, file if packed else None, meter)
    file = _utf8(path, file)
    if kind == ".json":
        return json_document(path, file.read(), meter, wanted)
    if kind in (".csv", ".tsv"):
        return csv_rows(path, _lines(file), tabs=kind == ".tsv")
    return json_lines(path, _lines(file), meter, wanted)


# --- the actual content of a file ---------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, meter: Meter) -> Iterator[tuple[io.BufferedReader, bool]]:
    """Open a file's unpacked content; also return whether it was packed."""
    with path.open("rb") as raw:
        meter.follow(lambda: raw.tell() // 1024)
        start = raw.peek(8)
        packing = next((name for sign, name in _PACKING.items() if start.startswith(sign)), None)
        if packing is None and path.suffix.lower() in PACKED and start.lstrip()[:1] not in (b"{", b"[", b"v", b"<"):
            packing = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}[path.suffix.lower()]
        if packing is None:
            yield raw, False
            return
        with _unpacked(raw, packing) as file:
            yield io.BufferedReader(cast("io.RawIOBase", file), _START), True


def _unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    if packing == "zstd":
        import pyarrow

        return cast("IO[bytes]", pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    opens: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return cast("IO[bytes]", opens[packing](raw))


def _refuse(path: Path, kind: str, start: bytes) -> None:
    """Reject a file with content of another kind, and name that kind.

    Raises:
        DataError: It has such content.
    """
    if start.startswith(b"version https://git-lfs.github.com/"):
        what = "this is a Git LFS pointer, not the file itself"
        raise _error(path, what, "Fetch the file: git lfs pull; or download it from its page.")
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or start.lstrip()[:5].lower() == b"<html":
        raise _error(path, "this is a web page, not the file itself", "Download it again; is a login needed?")
    if start.startswith(b"PK\x03\x04"):
        raise _error(path, "this is a zip archive", "Unpack it, and name the file or folder in it.")
    for sign, name in ((b"PAR1", ".parquet"), (b"ARROW1", ".arrow")):
        if start.startswith(sign) and kind != name:
            raise _error(path, f"this is a {name[1:].capitalize()} file under another name", f"Rename it to {name}.")


def _utf8(path: Path, file: io.BufferedReader) -> io.BufferedReader:
    """Return the text in UTF-8; UTF-16, as Windows programs write it, is read into memory as a whole."""
    start = file.peek(4)[:4]
    name = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else None
    if name is None and len(start) == 4 and start.count(0) == 2:
        name = "utf-16-le" if start[1] == start[3] == 0 else "utf-16-be" if start[0] == start[2] == 0 else None
    if name is None:
        return file
    try:
        text = file.read().decode(name)
    except UnicodeDecodeError as error:
        raise _error(path, f"the UTF-16 text is damaged: {error.reason}", _AGAIN) from None
    return io.BufferedReader(cast("io.RawIOBase", io.BytesIO(text.encode("utf-8", "surrogatepass"))))


def _lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Iterate over the lines of a file, which may end with carriage returns alone."""
    start = file.peek(_START)[:_START]
    if b"\r" not in start or b"\n" in start:
        return iter(file)
    return _carriage_return_lines(file)


def _carriage_return_lines(file: io.BufferedReader) -> Iterator[bytes]:
    left = b""
    while block := file.read(_START):
        *lines, left = (left + block).split(b"\r")
        yield from (line + b"\n" for line in lines)
    if left:
        yield left


def _error(path: Path, what: str, hint: str) -> DataError:
    return DataError(what, where=printable_path(path), hint=hint)
