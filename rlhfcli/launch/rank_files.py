"""The folder in which ranks and their parent exchange files, and the removal of those that killed parents have left.

Its owner holds a lock in it, which the kernel releases however the process ends. A folder without a lock was kept for
the log of a rank that failed.
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
    """Make a folder, which also takes torch's temporary files of the launch.

    It is removed at the end of the block, unless ``keep`` was called for it.
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
    """Keep a folder for the log in it.

    Args:
        files: The folder of ``folder``.
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
