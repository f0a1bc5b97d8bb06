"""Hashes of files; checksums of a model folder, so that damaged or half copied files are noticed before they are used.

``B2SUMS`` has the format of GNU's b2sum: ``b2sum -c B2SUMS`` checks a folder without this program. A folder without it,
as other programs write them, is not checked.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from rlhfcli.errors import ModelError
from rlhfcli.files.run_layout import SUMS

_NOT_COVERED = (SUMS, "README.md")  # people edit the card
_LINE = re.compile(r"([0-9a-f]{128})  ([^/\0]+)")
_BLOCK = 1 << 22  # bytes read at once


def file_hash(file: Path, size: int = 16) -> str:
    """Return the BLAKE2b hash of a file's content, in hexadecimal.

    Args:
        file: The file.
        size: Length of the hash in bytes.

    Raises:
        OSError: The file cannot be read.
    """
    digest = blake2b(digest_size=size)
    with file.open("rb") as content:  # hashlib.file_digest needs Python 3.11
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def text_hash(text: str, size: int = 16) -> str:
    """Return the BLAKE2b hash of a text in UTF-8, in hexadecimal.

    Args:
        text: The text.
        size: Length of the hash in bytes.
    """
    return blake2b(text.encode(), digest_size=size).hexdigest()


def write(folder: Path) -> None:
    """Write the checksums of a folder's files; folders inside it have their own.

    Args:
        folder: A folder whose files are all written.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name not in _NOT_COVERED)
    (folder / SUMS).write_text("".join(f"{_checksum(file)}  {file.name}\n" for file in files), encoding="utf-8")


def verify(folder: Path) -> None:
    """Check that the files of a folder are those that were saved. Only the first rank of a machine checks.

    Args:
        folder: The folder of a model, tokenizer or adapter; without ``B2SUMS`` nothing is checked.

    Raises:
        ModelError: A file is missing, changed or damaged.
    """
    sums = folder / SUMS
    if not sums.exists() or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    try:
        lines = [_LINE.fullmatch(line) for line in sums.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{SUMS} cannot be read: {error}", where=str(folder)) from None
    if not lines or None in lines:
        raise ModelError(f"{SUMS} is damaged", where=str(folder), hint="Copy or export the folder again.")
    for line in lines:
        if line:
            _compare(folder / line[2], line[1])


def _compare(file: Path, expected: str) -> None:
    try:
        found = _checksum(file)
    except FileNotFoundError:
        what = "is missing: the folder was saved with it"
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    else:
        what = "" if found == expected else "is not what was saved: it was changed, or damaged on the way"
    if what:
        hint = f"Copy or export the folder again; if you changed it yourself, remove {file.parent / SUMS}."
        raise ModelError(f"{file.name} {what}", where=str(file), hint=hint)


def _checksum(file: Path) -> str:
    status = file.stat()
    return _cached_checksum(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _cached_checksum(file: Path, *_state: int) -> str:
    """Hash a file once for each of its states: a model folder is verified several times before its weights are read."""
    return file_hash(file, 64)
