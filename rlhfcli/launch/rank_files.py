"""The folder where ranks and their parent leave each other word, and what parents that were killed have left of such.

Its owner holds a lock in it, which ends with the process however it ends. A folder without a lock was kept on purpose:
it has the log of a rank that failed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "rlhf-ranks-", "owner"


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder; torch's own temporary files of the launch go into it, too.

    Removed at the end, unless ``keep`` was called for it.
    """
    tidy()
    files = Path(tempfile.mkdtemp(prefix=_PREFIX))
    before = tempfile.tempdir
    with (files / f".{_LOCK}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (files / f".{_LOCK}").rename(files / _LOCK)  # nobody sees it without its lock
        tempfile.tempdir = str(files)
        try:
            yield files
        finally:
            tempfile.tempdir = before
            if (files / _LOCK).exists():
                shutil.rmtree(files, ignore_errors=True)


def keep(files: Path) -> None:
    """Let a folder stay, for the log that is in it.

    Args:
        files: From ``folder``.
    """
    (files / _LOCK).unlink(missing_ok=True)


def tidy() -> None:
    """Remove folders of this user whose owners are gone."""
    for files in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's; no lock; or its owner works
            if files.stat().st_uid != os.getuid() or files.is_symlink():
                continue
            with (files / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(files, ignore_errors=True)
