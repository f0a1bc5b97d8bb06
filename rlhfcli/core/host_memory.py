"""How much memory of the host this process may still take, and giving it back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

_GROUPS = Path("/proc/self/cgroup")
_TREE = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that the machine can give, and the container or the queue's job that this process is in."""
    return int(min([psutil.virtual_memory().available, *left_in_groups()]))


def total() -> int:
    """Bytes that the machine has, or the container or the queue's job that this process is in."""
    return int(min([psutil.virtual_memory().total, *limits_of_groups()]))


def give_back() -> None:
    """Return to the system what was freed and is kept for the next step (see ``launch.environment``)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def left_in_groups(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """What is left of the limit of each of Linux's control groups around this process.

    Args:
        groups: Names them (see ``limits_of_groups``).
        tree: Has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for folder, limit, used in _with_limits(groups, tree):
        try:
            yield limit - int((folder / used).read_text()) + _cached(folder)
        except (OSError, ValueError):
            continue


def limits_of_groups(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """The limit of each of Linux's control groups around this process.

    Args:
        groups: Names them: ``0::/job/step``, or ``4:memory:/job/step`` in their first version.
        tree: Has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for _, limit, _ in _with_limits(groups, tree):
        yield limit


def _with_limits(groups: Path, tree: Path) -> Iterator[tuple[Path, int, str]]:
    """The folder of each group that has a limit, the limit, and the name of the file that says what is used."""
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, limit, used = (
            (tree / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else (tree, "memory.max", "memory.current")
        )
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = top / group.relative_to("/")
            try:
                yield folder, int((folder / limit).read_text()), used
            except (OSError, ValueError):  # not seen from here, or "max"
                continue


def _cached(group: Path) -> int:
    """Bytes that a group uses for files, and gives back when they are wanted."""
    found = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))
