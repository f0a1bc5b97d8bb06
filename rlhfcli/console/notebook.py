"""Progress in a notebook: lines on stdout, of which the last one is rewritten while work goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rlhfcli.console.figures import Work
from rlhfcli.words import visible

LINE_EVERY = 0.5  # seconds between two versions of the line


class NotebookSink:
    """Writes lines to stdout; a carriage return replaces the line of unfinished work. See ``progress.Sink``.

    Args:
        line_every: Seconds between two versions of that line.
    """

    def __init__(self, line_every: float = LINE_EVERY) -> None:
        self._line_every = line_every
        self._works: list[Work] = []  # work may begin inside other work: an evaluation inside training
        self._width = 0  # characters of the line that is going to be replaced

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the name of a part, then its seconds.

        Args:
            name: For people.
        """
        started = time.monotonic()
        self._show(f"{name} …")
        ending = "failed after "
        try:
            yield
            ending = ""
        finally:
            self.note(f"{name}  {ending}{time.monotonic() - started:.1f} s")

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Begin to show work.

        Args:
            title: For people.
            total: Number of units.
            unit: Their name, in the plural.
            done: Units that were finished before.
        """
        self._works.append(Work(title, total, unit, done))

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show how far the work is, and its newest figures.

        Args:
            done: Units that are finished in all.
            metrics: The newest figures.
        """
        if not self._works:
            return
        work = self._works[-1]
        work.advance(done, metrics)
        if work.due(self._line_every):
            self._show(work.line())

    def end(self) -> None:
        """Replace the line of the work by a summary."""
        if self._works:
            self.note(self._works.pop().summary())

    def note(self, text: str) -> None:
        """Write a line that stays.

        Args:
            text: The line.
        """
        self._show(text)
        sys.stdout.write("\n")
        self._width = 0

    def warn(self, text: str) -> None:
        """Write a line that stays, marked as a warning.

        Args:
            text: The line.
        """
        self.note(f"warning: {text}")

    def _show(self, text: str) -> None:
        line = visible(text)
        sys.stdout.write(("\r" if self._width else "") + line.ljust(self._width))
        sys.stdout.flush()
        self._width = len(line)
