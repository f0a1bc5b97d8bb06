"""Ending a training before its last step: a stop was requested, or its time is over."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rlhfcli.core.parallel.own_rank import rank, world_size

_STOPPING = "stopping after this step, with a checkpoint; the same again stops at once"
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # from Ctrl-C; from a batch system; from a closed terminal or connection


class Stop:
    """Says after each step, and after each batch of an evaluation, whether the session ends there.

    Args:
        seconds: Time from now until the end; ``None`` for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._requested = False

    @property
    def wanted(self) -> bool:
        """Whether to stop; never false again once it is true."""
        return self._requested or (self._until is not None and time.monotonic() >= self._until)

    @property
    def reason(self) -> str | None:
        """The reason to stop; ``None`` to continue."""
        if not self.wanted:
            return None
        return "asked to stop" if self._requested else "the time is over"

    @contextmanager
    def handling_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """Take the first Ctrl-C, SIGTERM or SIGHUP as a request to stop while this block runs.

        The second one has the effect that it had before. A signal that is ignored, such as SIGHUP under ``nohup``,
        stays ignored.

        Args:
            say: Shows the user that the request was received.
        """
        if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
            yield
            return
        # one of several ranks gets SIGTERM when another has failed; our launcher passes all requests on as SIGINT
        names = [name for name in _SIGNALS if hasattr(signal, name) and not (name == "SIGTERM" and world_size() > 1)]
        before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
        before = {kind: handler for kind, handler in before.items() if handler is not signal.SIG_IGN}

        def restore() -> None:
            for kind, handler in before.items():
                signal.signal(kind, handler)

        def request(*_: Any) -> None:
            restore()
            self._requested = True
            if rank() == 0:  # in its own thread: this one may hold the lock of the output
                _thread.start_new_thread(say, (_STOPPING,))

        for kind in before:
            signal.signal(kind, request)
        try:
            yield
        finally:
            restore()
