"""A lock for a folder: one command at a time works in it, and others are told which one.

The lock is ``flock`` on a file in the folder (library ``filelock``). The kernel releases it when the process ends,
however it ends. It holds between processes, containers and network namespaces of one machine, and between machines if
their shared file system supports it, as NFS does. A file beside it names the holder, for the error of the others.

Some file systems keep ``flock`` local to a machine (Lustre's ``localflock``, NFS's ``local_lock``). Therefore the
holder also touches its file every few seconds (a heartbeat): a free lock whose file names another machine is only
acquired when the heartbeat has stopped. No clocks are compared.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlhfcli.errors import OutputError
from rlhfcli.files.atomic import write_text

LOCK, HOLDER = ".lock", ".lock.json"
FILES = frozenset((LOCK, HOLDER))
GRACE = 0.5  # seconds to wait for a lock: its holder may be about to end, or about to write its name
HEARTBEAT = 5.0  # seconds between two touches
STALE_AFTER = 12 * HEARTBEAT  # seconds without a touch; a library may block the thread that touches for a while
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
_ATTEMPTS = 20
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_COMMAND_LENGTH = 80  # characters of the holder's command that an error shows


def _silent(_: str) -> None:
    """Ignore a message."""


@contextmanager
def locked(folder: Path, command: str, *, name: str = "", say: Callable[[str], None] = _silent) -> Iterator[None]:
    """Keep other commands out of a folder, or away from one entry in it, inside a block.

    Args:
        folder: Folder of the lock file; created if missing.
        command: Command line of this process without secrets, shown to other commands.
        name: Entry of the folder to lock; empty: the whole folder.
        say: Receives a message when waiting takes long.

    Raises:
        OutputError: Another command holds the lock.
        OSError: The lock cannot be written.
    """
    place, prefix = folder / name, f".{name}" if name else ""
    lock_file, holder = folder / f"{prefix}{LOCK}", folder / f"{prefix}{HOLDER}"
    with _acquired(lock_file, holder, place, say) as supported:
        _wait_for_heartbeat(holder, place, say, trusted=supported)
        about = {"host": platform.node(), "machine": _machine(), "process": os.getpid(), "command": command}
        stop = threading.Event()
        try:
            write_text(holder, json.dumps(about | {"since": _now()}) + "\n")
            threading.Thread(target=_touch, args=(holder, stop), daemon=True).start()
            yield
        finally:
            stop.set()
            for file in (holder, lock_file):  # while the lock is held: afterwards they may be another command's
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def holder_of(folder: Path) -> str:
    """Describe the command that works in a folder, without taking the lock.

    Args:
        folder: As given to ``locked``.

    Returns:
        Command, process, host and time; empty if no command works there.
    """
    about, lock_file = _read(folder / HOLDER), folder / LOCK
    if not about or not lock_file.is_file():
        return ""
    if about.get("machine") == _machine():
        try:
            with FileLock(str(lock_file), timeout=0):  # for a moment only: others wait longer than that
                return ""  # the holder was killed
        except (Timeout, OSError):
            pass
    return _describe(about)


@contextmanager
def _acquired(lock_file: Path, holder: Path, place: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock inside the block; yield whether the file system supports locks."""
    lock = FileLock(str(lock_file), timeout=GRACE)
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the library falls back to another kind of lock
                lock.acquire(poll_interval=0.05)
            break
        except Timeout:
            raise _in_use(place, _read(holder)) from None
        except FileNotFoundError:  # a command that failed has just removed its new folder
            if not attempts_left:
                raise
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            say(f"the file system of {place} has no locks: another command is only noticed by its heartbeat")
            yield False
            return
    try:
        yield True
    finally:
        with suppress(OSError):
            lock.release()


def _wait_for_heartbeat(holder: Path, place: Path, say: Callable[[str], None], *, trusted: bool) -> None:
    """Give way to a command on another machine, whose heartbeat continues although the lock was free.

    Raises:
        OutputError: There is one.
    """
    about = _read(holder)
    if not about or (trusted and about.get("machine") == _machine()):
        return
    say(f"checking whether a command on {about.get('host')} still works in {place} (at most {STALE_AFTER:.0f} s) …")
    before, until = _last_touch(holder), time.monotonic() + STALE_AFTER
    while time.monotonic() < until:
        time.sleep(min(1.0, STALE_AFTER / 10))
        if _last_touch(holder) != before:
            raise _in_use(place, _read(holder) or about)


def _in_use(place: Path, about: dict[str, Any]) -> OutputError:
    return OutputError(
        f"in use by {_describe(about) if about else 'another command'}",
        where=str(place),
        hint="Wait until it has ended, or choose another folder: --set output_dir=…",
    )


def _describe(about: dict[str, Any]) -> str:
    host = f" on {about.get('host')}" if about.get("host") != platform.node() else ""
    since = str(about.get("since", ""))[:16].replace("T", " ")
    command = textwrap.shorten(str(about.get("command")), _COMMAND_LENGTH, placeholder=" …")
    return f"{command} (process {about.get('process')}{host}, since {since})"


def _touch(file: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(file)


def _last_touch(file: Path) -> int | None:
    """Return the time of the last touch; opening the file makes a network file system ask its server."""
    try:
        with file.open("rb") as opened:
            return os.fstat(opened.fileno()).st_mtime_ns
    except OSError:
        return None


def _read(holder: Path) -> dict[str, Any]:
    """Return the holder's description of itself; empty if the file is missing or damaged."""
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _machine() -> str:
    """Identify this machine until its next boot; host names differ between containers."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return platform.node()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
