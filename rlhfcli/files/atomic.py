"""Atomic writing: a file or folder is complete or absent, whenever the process is killed.

Everything is written beside its place, under a name that only this process uses, and renamed when it is complete:
``.final.partial-3f9c01aa`` becomes ``final``. Whoever writes holds the lock of the folder (see ``folder_lock``), so
leftovers that it finds are those of processes that were killed, and can be removed.
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

from rlhfcli.errors import OutputError, write_error_hint

_TOKEN = secrets.token_hex(4)  # of this process; its number would repeat in containers and on other machines
_SUFFIX = re.compile(r"(partial|old)-[0-9a-f]+")


def temporary(place: Path, kind: str = "partial") -> Path:
    """Return the path that this process uses beside a file or folder.

    Args:
        place: The final path.
        kind: ``partial`` for new content, ``old`` for content that is moved aside.
    """
    return place.with_name(f".{place.name}.{kind}-{_TOKEN}")


def leftovers(place: Path) -> Iterator[tuple[str, Path]]:
    """Find temporary files and folders that killed processes left beside a path whose lock is held.

    Args:
        place: The final path.

    Yields:
        Kind, as in ``temporary``, and path.
    """
    for path in sorted(place.parent.glob(f".{glob.escape(place.name)}.*-*")):
        if found := _SUFFIX.fullmatch(path.name.removeprefix(f".{place.name}.")):
            yield found[1], path


def is_leftover(name: str) -> bool:
    """Return whether a file name is a temporary one, of any path and process.

    Args:
        name: Last part of a path.
    """
    place, _, suffix = name.rpartition(".")
    return place.startswith(".") and _SUFFIX.fullmatch(suffix) is not None


@contextmanager
def complete_or_absent(folder: Path, what: str = "") -> Iterator[Path]:
    """Provide an empty folder that replaces another one once the block has ended without an error.

    Args:
        folder: The final path; the caller holds its lock. An existing folder is replaced, in two renames.
        what: Name of the content, for the error.

    Yields:
        The folder to write into.

    Raises:
        OutputError: The folder cannot be written; the previous one is untouched.
    """
    partial, old = temporary(folder), temporary(folder, "old")
    try:
        _recover(folder)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # a full disk is either
        reason = getattr(error, "strerror", None) or error
        message = f"{what} cannot be written: {reason}".lstrip()
        raise OutputError(message, where=str(folder), hint=write_error_hint(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Remove leftovers; restore the previous folder where a process was killed between the two renames."""
    for kind, path in leftovers(folder):
        if kind == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Replace a file in one step, and remove its leftovers.

    Args:
        file: The final path, in a folder whose lock the caller holds.
        text: New content.
    """
    for _, path in leftovers(file):
        path.unlink(missing_ok=True)
    partial = temporary(file)
    try:
        _write(partial, text)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_file(file: Path, text: str) -> None:
    """Replace a file that the user named, which need not lie in a folder of ours.

    Args:
        file: The final path. A link is followed; a device such as ``/dev/stdout`` is written directly.
        text: New content.

    Raises:
        OutputError: The file cannot be written; the previous one is untouched.
    """
    place = file.resolve() if file.is_symlink() else file
    partial = place if place.exists() and not place.is_file() else temporary(place)
    try:
        _write(partial, text)
        if partial != place:
            partial.replace(place)
    except OSError as error:
        if partial != place:
            partial.unlink(missing_ok=True)
        what = f"the file cannot be written: {(error.strerror or str(error)).lower()}"
        raise OutputError(what, where=str(file)) from None


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", errors="backslashreplace")  # bytes that are no UTF-8 become escapes
