"""Sums of the files of a model folder, so that one that was damaged or half copied is noticed before it is used.

``B2SUMS`` is written as GNU's b2sum writes it, so ``b2sum -c B2SUMS`` checks a folder without this program. A folder
that somebody else made has none, and is taken as it is.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from rlhfcli.errors import ModelError
from rlhfcli.files.run_layout import SUMS

_NOT_COVERED = (SUMS, "README.md")  # people write into the card
_LINE = re.compile(r"([0-9a-f]{128})  ([^/\0]+)")


def write(folder: Path) -> None:
    """Write down the sums of a folder's files; folders in it have their own.

    Args:
        folder: Complete.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name not in _NOT_COVERED)
    (folder / SUMS).write_text("".join(f"{_sum_of(file)}  {file.name}\n" for file in files), encoding="utf-8")


def verify(folder: Path) -> None:
    """Refuse a folder whose files are not what was saved; of several ranks on a machine the first one looks.

    Args:
        folder: Of a model, a tokenizer or an adapter; without ``B2SUMS`` there is nothing to compare with.

    Raises:
        ModelError: A file is missing, was changed or is damaged.
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
        found = _sum_of(file)
    except FileNotFoundError:
        what = "is missing: the folder was saved with it"
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    else:
        what = "" if found == expected else "is not what was saved: it was changed, or damaged on the way"
    if what:
        hint = f"Copy or export the folder again; if you changed it yourself, remove {file.parent / SUMS}."
        raise ModelError(f"{file.name} {what}", where=str(file), hint=hint)


def _sum_of(file: Path) -> str:
    status = file.stat()
    return _sum(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _sum(file: Path, *_state: int) -> str:
    """Once per state of a file: a model folder is looked at several times before its weights are read."""
    digest = blake2b()
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
