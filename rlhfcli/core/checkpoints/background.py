"""Work beside the training: writing a checkpoint while the next steps are made."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class Background:
    """One piece of work at a time, in a thread. Leaving its block waits for the end of what is in flight."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, as soon as what is in flight has ended.

        Args:
            work: Touches nothing that the training changes.

        Raises:
            Exception: What the work before has raised.
        """
        self.wait()
        # a daemon: who presses Ctrl-C twice does not wait for the disk
        self._thread = Thread(target=self._run, args=[work], name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See whether all went well so far, without waiting.

        Raises:
            Exception: What the work has raised; once.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait for the end of what is in flight.

        Raises:
            Exception: What it has raised.
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
