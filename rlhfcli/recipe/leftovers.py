"""Names of what is written beside its place and then renamed, and what killed processes have left of such.

A name ends with the number of the process that writes it: ``.final.partial-4711`` becomes ``final``.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

_KINDS = ("partial", "old")


def beside(place: Path, kind: str = "partial") -> Path:
    """Where this process writes what is to become a file or folder, or moves aside what was there.

    Args:
        place: The final name.
        kind: ``partial``, or ``old`` for what was there before.
    """
    return place.with_name(f".{place.name}.{kind}-{os.getpid()}")


def left(place: Path) -> Iterator[tuple[str, Path]]:
    """What processes that are gone have left beside a file or folder.

    Args:
        place: The final name.

    Yields:
        Kind, as in ``beside``, and path.
    """
    for path in sorted(place.parent.glob(f".{glob.escape(place.name)}.*-*")):
        kind, _, process = path.name.removeprefix(f".{place.name}.").partition("-")
        if kind in _KINDS and process.isdecimal() and _is_gone(int(process)):
            yield kind, path


def _is_gone(process: int) -> bool:
    if process == os.getpid():  # an earlier one: in a container every command may have the same number
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # somebody else's
        return False
    return False
