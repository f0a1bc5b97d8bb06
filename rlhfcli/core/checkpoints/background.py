"""Background work: writing a checkpoint while the next steps are made."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class Background:
    """Does one piece of work at a time in a thread. The end of its block waits for the work in progress."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start work as soon as the work before it has ended.

        Args:
            work: A function that touches nothing that the training changes.

        Raises:
            Exception: The error of the work before it.
        """
        self.wait()
        # a daemon, so that a second Ctrl-C need not wait for the disk
        self._thread = Thread(target=self._run, args=[work], name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of finished work, without waiting.

        Raises:
            Exception: The error, once.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait for the end of the work in progress.

        Raises:
            Exception: The error of the work.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None and not issubclass(error, KeyboardInterrupt):
            self._thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
