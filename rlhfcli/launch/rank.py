"""Inside a rank: end with the parent, report failures, keep a log; and let ranks wait for each other."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.errors import Interrupted, RecipeError, RlhfError
from rlhfcli.files.atomic import write_text
from rlhfcli.words import visible

FILES = "RLHF_RANK_FILES"  # folder in which ranks and their parent exchange files
RUN = "run"  # one of these files: the run folder that the ranks work on
LAUNCHER = "RLHF_LAUNCHER"  # process id of the parent
ANCESTOR = "RLHF_ANCESTOR"  # process id of this program, if another launcher is between it and the ranks
PATIENCE = 5.0  # seconds after SIGTERM until a rank is ended that hangs inside a library
# messages of gloo and NCCL when another rank has ended; other errors of NCCL are causes
LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe"),
    *("Connection closed by remote peer", "ncclRemoteError", "NCCL communicator was aborted"),
    "Watchdog caught collective operation timeout",
)
_PR_SET_PDEATHSIG = 1
Made = TypeVar("Made")


def is_rank() -> bool:
    """Return whether this process is one of several ranks."""
    return world_size() > 1


def first() -> bool:
    """Return whether this process is the rank that shows messages and writes files."""
    return rank() == 0


def log_of(folder: Path, number: int) -> Path:
    """Return the path of a rank's log.

    Args:
        folder: Folder of the logs.
        number: Number of the rank.
    """
    return folder / f"rank-{number}.log"


def report_of(folder: Path, number: int) -> Path:
    """Return the path of a rank's report about its failure.

    Args:
        folder: Folder of the reports.
        number: Number of the rank.
    """
    return folder / f"rank-{number}.json"


@contextmanager
def as_rank() -> Iterator[None]:
    """Run a command as one of several ranks.

    Raises:
        SystemExit: The command has failed. If this program has started the rank, the parent shows why.
    """
    end_with_parent(signal.SIGKILL)
    if ANCESTOR in os.environ:
        _watch(_end_with, int(os.environ[ANCESTOR]))
    _end_soon_after_sigterm()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files = os.environ.get(FILES)
    if files and not first():
        os.dup2(2, 1)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        if not files:
            raise
        raise SystemExit(1) from end  # not 130: the parent shows the interruption
    except BaseException as error:
        if files:
            _report(error, Path(files))
            code = 1 if isinstance(error, Interrupted) else getattr(error, "exit_code", 1)  # 1: see above
            raise SystemExit(code) from None
        if isinstance(error, RlhfError) and not isinstance(error, Interrupted) and not first():
            sys.stderr.write(visible(f"rank {rank()}: {error}\n"))  # the console of all but the first is silent
        if any(words in str(error) for words in LOST):
            _blame_another(error)
        raise
    _leave()
    if files:
        _drop_empty_log(Path(files))


def together() -> None:
    """Wait until all ranks have come this far; the first time, they find each other. One rank does not wait."""
    if is_rank():
        from rlhfcli.core.parallel import ranks

        ranks.meet()


def wait_for_first(make: Callable[[], Made], find: Callable[[], Made]) -> Made:
    """Let the first rank make something on disk, while the others wait to find it there.

    Args:
        make: Called on the first rank, also if it is the only one.
        find: Called on the others, afterwards.

    Returns:
        The result of either.
    """
    if first():
        made = make()
        together()
        return made
    together()
    return find()


def of_first(look: Callable[[], Made]) -> Made:
    """Let the first rank read the disk for all: the others might see something else there.

    Args:
        look: Called on the first rank, also if it is the only one.

    Returns:
        Its result, on every rank.
    """
    if not is_rank():
        return look()
    from rlhfcli.core.parallel import ranks

    return cast("Made", ranks.from_first(look() if first() else None))


def continue_alone() -> bool:
    """Leave the group of ranks, so that the first one does the rest of the work alone.

    Returns:
        Whether this rank continues.
    """
    alone = first()
    if is_rank():
        together()
        _leave()
        os.environ["WORLD_SIZE"] = "1"
    return alone


def log_into(folder: Path) -> None:
    """Continue the rank's log in the run folder, as ``rank-N.log``.

    Args:
        folder: ``logs`` of the run; made if it does not exist.
    """
    files = os.environ.get(FILES)
    if not files:
        return
    if first():
        run = str(folder.parent.resolve())
        (Path(files) / RUN).write_text(run, encoding="utf-8", errors="surrogateescape")  # the parent reads it
    folder.mkdir(parents=True, exist_ok=True)
    before, log = log_of(Path(files), rank()), log_of(folder, rank())
    log.unlink(missing_ok=True)  # an earlier run's
    if not first():
        shutil.copyfile(before, log)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    before.unlink(missing_ok=True)
    before.symlink_to(log.resolve())  # so the parent finds it


def _report(error: BaseException, files: Path) -> None:
    """Write a report about this rank's failure for the parent, and the traceback of a bug into its log."""
    report: dict[str, Any] = {"time": time.time(), "type": type(error).__name__, "what": str(error)}
    if isinstance(error, RlhfError):
        report |= {"ours": True, "what": error.what, "where": error.where, "hint": error.hint}
        text = f"{error}\n"
    else:
        text = traceback.format_exc()
    if isinstance(error, RecipeError):
        report["problems"] = [vars(problem) for problem in error.problems]
    if isinstance(error, Interrupted):  # in good order
        _drop_empty_log(files)
    else:
        with log_of(files, rank()).open("a", encoding="utf-8") as log:
            log.write(text)
    write_text(report_of(files, rank()), json.dumps(report))


def _blame_another(error: BaseException) -> None:
    """Under another launcher, end after the rank that has failed, so that its exit code is the one that counts."""
    sys.stderr.write(visible(f"rank {rank()} has lost another rank: {error}\n"))
    time.sleep(PATIENCE)
    raise SystemExit(1) from error


def _leave() -> None:
    """Leave the other ranks, if this one has joined them; a command that needs no torch has not loaded it."""
    process_group: Any = sys.modules.get("rlhfcli.core.parallel.process_group")
    if process_group is not None:
        process_group.leave()


def _drop_empty_log(files: Path) -> None:
    """Remove the log of this rank from the run folder if it is empty."""
    log = log_of(files, rank()).resolve()
    if log.parent != files.resolve() and log.exists() and not log.stat().st_size:
        log.unlink()
        with suppress(OSError):  # the other ranks' logs are in it
            log.parent.rmdir()


def end_with_parent(kind: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends, however that happens. Linux only.

    Args:
        kind: The signal.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(kind))
    if LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER]):  # it has ended before that
        os._exit(1)


def _end_soon_after_sigterm() -> None:
    """End soon after SIGTERM, which says that another rank has failed: libraries would wait for it forever."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to even while a library runs

    def watch() -> None:
        while signal.SIGTERM not in os.read(reader, 1):
            pass
        time.sleep(PATIENCE)
        os._exit(128 + signal.SIGTERM)

    _watch(watch)


def _end_with(process: int) -> None:
    """End when another process of this machine, which is not the parent, has ended."""
    with suppress(OSError):
        while True:
            os.kill(process, 0)
            time.sleep(1)
    os._exit(1)


def _watch(function: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()
