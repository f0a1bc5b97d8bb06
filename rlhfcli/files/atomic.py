"""Names of what is written beside its place and then renamed, and what commands that were killed have left of such.

A name ends with a mark of the process that writes it: ``.final.partial-3f9c01aa`` becomes ``final``. Who looks for
leftovers holds the folder (see ``in_use``), so whatever is found was left by a command that is gone.
"""

from __future__ import annotations

import glob
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rlhfcli.errors import OutputError, why_not_written

_MARK = secrets.token_hex(4)  # not the process's number, which repeats in containers and on other machines
_ENDING = re.compile(r"(partial|old)-[0-9a-f]+")


def beside(place: Path, kind: str = "partial") -> Path:
    """Where this process writes what is to become a file or folder, or moves aside what was there.

    Args:
        place: The final name.
        kind: ``partial``, or ``old`` for what was there before.
    """
    return place.with_name(f".{place.name}.{kind}-{_MARK}")


def left(place: Path) -> Iterator[tuple[str, Path]]:
    """What commands that are gone have left beside a file or folder. For whoever holds its folder.

    Args:
        place: The final name.

    Yields:
        Kind, as in ``beside``, and path.
    """
    for path in sorted(place.parent.glob(f".{glob.escape(place.name)}.*-*")):
        if found := _ENDING.fullmatch(path.name.removeprefix(f".{place.name}.")):
            yield found[1], path


def is_one(name: str) -> bool:
    """Whether this is the name of something left, whatever its place."""
    place, _, ending = name.rpartition(".")
    return place.startswith(".") and _ENDING.fullmatch(ending) is not None


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its final name only when everything is in it.

    Args:
        folder: The final name. What stands there already is replaced, in two renames. Nobody else may write it
            meanwhile: what an earlier command has left beside it is tidied up; see ``recipe.in_use``.

    Raises:
        OutputError: It cannot be written; what stood there before is untouched.
    """
    partial, old = beside(folder), beside(folder, "old")
    try:
        _tidy(folder)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # a full disk is either
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot be written: {reason}", where=str(folder), hint=why_not_written(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Take away what a killed command left beside a folder, and put back what it had only moved aside."""
    for kind, path in left(folder):
        if kind == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one.

    Args:
        file: Its final name; a folder's lock is held by whoever writes in it.
        text: Its content.
    """
    for _, path in left(file):
        path.unlink(missing_ok=True)
    partial = beside(file)
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # bytes that are no UTF-8, as an escape
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_file(file: Path, text: str) -> None:
    """Write a file that a user has named: as a whole, or what was there stays.

    Args:
        file: Where it goes; a link is followed.
        text: Its content.

    Raises:
        OutputError: It cannot be written.
    """
    place = file.resolve() if file.is_symlink() else file
    partial = place if place.exists() and not place.is_file() else beside(place)  # /dev/stdout is written as it is
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        if partial != place:
            partial.replace(place)
    except OSError as error:
        if partial != place:
            partial.unlink(missing_ok=True)
        what = f"the file cannot be written: {(error.strerror or str(error)).lower()}"
        raise OutputError(what, where=str(file)) from None
