"""One command at a time in a folder, and who that is.

The lock is ``flock`` on a file in the folder (the library ``filelock``). The kernel releases it when the process ends,
however it ends. It holds between processes, containers and network namespaces of one machine, and between machines
where their shared file system passes it on, as NFS does. A file beside it says who holds it, for the other's error.

Some file systems keep ``flock`` to one machine (Lustre's ``localflock``, NFS's ``local_lock``). So the holder also
touches its file every few seconds: a lock that is free although another machine is named there is only taken when that
file has not been touched for a while. No clocks are compared.
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
GRACE = 0.5  # seconds to wait for a lock: the other may be about to end, or about to say who it is
BEAT = 5.0  # seconds between two touches
SILENCE = 12 * BEAT  # after this long another machine's command is taken to be gone; a library may hold the thread up
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
_TRIES = 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_SHOWN = 80  # characters of the other's command


def _nothing(_: str) -> None:
    """Say nothing."""


@contextmanager
def alone(folder: Path, command: str, *, name: str = "", say: Callable[[str], None] = _nothing) -> Iterator[None]:
    """Keep every other command out of a folder, or away from one thing in it, while a block runs.

    Args:
        folder: Where the lock lies; made if need be.
        command: What this process runs, without secrets: the others are told.
        name: Of the thing; left out: the whole folder.
        say: Hears why it takes long.

    Raises:
        OutputError: Another command is in there.
        OSError: The lock cannot be written.
    """
    place, prefix = folder / name, f".{name}" if name else ""
    lock_file, holder = folder / f"{prefix}{LOCK}", folder / f"{prefix}{HOLDER}"
    with _locked(lock_file, holder, place, say) as locked:
        _wait_for_others(holder, place, say, locked=locked)
        about = {"host": platform.node(), "machine": _machine(), "process": os.getpid(), "command": command}
        stop = threading.Event()
        try:
            write_text(holder, json.dumps(about | {"since": _now()}) + "\n")
            threading.Thread(target=_touch, args=(holder, stop), daemon=True).start()
            yield
        finally:
            stop.set()
            for file in (holder, lock_file):  # while the lock is held, so that nobody else's is removed
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def holder_of(folder: Path) -> str:
    """Who is at work in a folder, in words; empty if nobody is. Only looks.

    Args:
        folder: As given to ``alone``.
    """
    about, lock_file = _read(folder / HOLDER), folder / LOCK
    if not about or not lock_file.is_file():
        return ""
    if about.get("machine") == _machine():
        try:
            with FileLock(str(lock_file), timeout=0):  # for a moment: whoever wants it waits longer than that
                return ""  # it was killed
        except (Timeout, OSError):
            pass
    return _who(about)


@contextmanager
def _locked(lock_file: Path, holder: Path, place: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock; whether there is one: a few file systems have none."""
    lock = FileLock(str(lock_file), timeout=GRACE)
    for tries_left in reversed(range(_TRIES)):
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where the library puts another kind of lock in its place
                lock.acquire(poll_interval=0.05)
            break
        except Timeout:
            raise _in_use(place, _read(holder)) from None
        except FileNotFoundError:  # a command that failed has just taken its new folder away
            if not tries_left:
                raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(f"the file system of {place} has no locks: another command is only noticed while it is at work")
            yield False
            return
    try:
        yield True
    finally:
        with suppress(OSError):
            lock.release()


def _wait_for_others(holder: Path, place: Path, say: Callable[[str], None], *, locked: bool) -> None:
    """Give way to a command that still touches its file, though the lock was free: it is on another machine.

    Raises:
        OutputError: There is one.
    """
    about = _read(holder)
    if not about or (locked and about.get("machine") == _machine()):  # the lock is to be trusted
        return
    say(f"looking whether a command on {about.get('host')} is still at work in {place} (at most {SILENCE:.0f} s) …")
    before, until = _touched(holder), time.monotonic() + SILENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE / 10))
        if _touched(holder) != before:
            raise _in_use(place, _read(holder) or about)


def _in_use(place: Path, about: dict[str, Any]) -> OutputError:
    return OutputError(
        f"in use by {_who(about) if about else 'another command'}",
        where=str(place),
        hint="Wait until it has ended, or write elsewhere: --set output_dir=…",
    )


def _who(about: dict[str, Any]) -> str:
    host = f" on {about.get('host')}" if about.get("host") != platform.node() else ""
    since = str(about.get("since", ""))[:16].replace("T", " ")
    command = textwrap.shorten(str(about.get("command")), _SHOWN, placeholder=" …")
    return f"{command} (process {about.get('process')}{host}, since {since})"


def _touch(file: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(file)


def _touched(file: Path) -> int | None:
    """When a file was last touched; it is opened, because only that asks the server of a network file system."""
    try:
        with file.open("rb") as opened:
            return os.fstat(opened.fileno()).st_mtime_ns
    except OSError:
        return None


def _read(holder: Path) -> dict[str, Any]:
    """Who holds it; empty where nobody says so."""
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _machine() -> str:
    """Name this machine, until it is started again; containers have host names of their own."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return platform.node()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
