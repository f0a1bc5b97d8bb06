"""When a training has to end before its last step: it is asked to, or its time is over."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rlhfcli.core.parallel.own_rank import rank, world_size

_TOLD = "stopping: this step is finished and a checkpoint written; once more stops at once"
_KINDS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; a batch system's; a terminal that is closed, or a connection lost


class Stop:
    """Says at the end of each step, and of each batch of an evaluation, whether it was the last one of this sitting.

    Args:
        seconds: Time from now until the end; ``None`` for as long as it takes.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._requested = False

    @property
    def wanted(self) -> bool:
        """Whether to stop; once it is so it stays so."""
        return self._requested or (self._until is not None and time.monotonic() >= self._until)

    @property
    def reason(self) -> str | None:
        """Why to stop; ``None`` to go on."""
        if not self.wanted:
            return None
        return "asked to stop" if self._requested else "the time is over"

    @contextmanager
    def handling_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """While this block runs, the first Ctrl-C, SIGTERM or SIGHUP is a wish; the second does what it did before.

        One that is ignored, as ``nohup`` has it of SIGHUP, stays ignored.

        Args:
            say: Tells the user that it was heard.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
            yield
            return
        # to one of several ranks SIGTERM says that another has failed; our launcher hands all of them on as Ctrl-C
        names = [name for name in _KINDS if hasattr(signal, name) and not (name == "SIGTERM" and world_size() > 1)]
        before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
        before = {kind: handler for kind, handler in before.items() if handler is not signal.SIG_IGN}

        def restore() -> None:
            for kind, handler in before.items():
                signal.signal(kind, handler)

        def ask(*_: Any) -> None:
            restore()
            self._requested = True
            if rank() == 0:  # in a thread of its own: this one may be in the middle of a line, and hold its lock
                _thread.start_new_thread(say, (_TOLD,))

        for kind in before:
            signal.signal(kind, ask)
        try:
            yield
        finally:
            restore()
