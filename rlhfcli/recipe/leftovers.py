"""Names of what is written beside its place and then renamed, and what commands that were killed have left of such.

A name ends with a mark of the process that writes it: ``.final.partial-3f9c01aa`` becomes ``final``. Who looks for
leftovers holds the folder (see ``in_use``), so whatever is found was left by a command that is gone.
"""

from __future__ import annotations

import glob
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

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
