"""Progress on the screen: bars that move on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from rlhfcli.console import screen as screens
from rlhfcli.console.figures import Work
from rlhfcli.console.screen import Screen

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY = 5.0  # seconds between two lines of progress where there is no terminal


class TerminalSink:
    """Shows progress: bars that move on a terminal, now and then a line elsewhere. See ``progress.Sink``.

    Args:
        screen: The stream; stderr if left out.
        line_every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, screen: Screen | None = None, line_every: float = LINE_EVERY) -> None:
        self._screen = screen or screens.messages
        self._line_every = line_every
        self._works: list[Work] = []  # work may begin inside other work: an evaluation inside training
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the name of a part, and its seconds once it is over.

        Args:
            name: For people.
        """
        started = time.monotonic()
        moving = self._screen.is_terminal and not self._works
        status = self._screen.status(Text(f"{name} …", style="dim")) if moving else None
        if status:
            status.start()
        elif not self._works:  # at once, so that a log shows what hangs
            self.note(f"{name} …")
        ending = "failed after "
        try:
            yield
            ending = ""
        finally:
            if status:
                status.stop()
            self.note(f"{name}  {ending}{time.monotonic() - started:.1f} s")

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Begin to show work.

        Args:
            title: For people.
            total: Number of units.
            unit: Their name, in the plural.
            done: Units that were finished before.
        """
        work = Work(title, total, unit, done)
        self._works.append(work)
        if self._screen.is_terminal and not self._screen.quiet:
            if self._bars is None:
                self._bars = _bars(self._screen)
                self._bars.start()
            work.bar = self._bars.add_task(title, total=total, completed=done, unit=unit, figures="")

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
        if self._bars is not None and work.bar is not None:
            self._bars.update(work.bar, completed=done, figures=work.figures_text())
            if done >= work.total:  # else short work would never be seen complete
                self._bars.refresh()
        elif work.due(self._line_every):
            self.note(work.line())

    def end(self) -> None:
        """Replace the bar by a summary."""
        if not self._works:
            return
        work = self._works.pop()
        if self._bars is not None and work.bar is not None:
            self._bars.remove_task(work.bar)
            if not self._works:
                self._bars.stop()
                self._bars = None
        self.note(work.summary())

    def note(self, text: str) -> None:
        """Print a line that stays.

        Args:
            text: The line.
        """
        self._screen.print_line(Text(text))

    def warn(self, text: str) -> None:
        """Print a line that stays and stands out.

        Args:
            text: The line.
        """
        self._screen.print_line(Text(text, style="yellow"))


def _bars(screen: Screen) -> Progress:
    """Two lines per work, so that 80 columns suffice: the bar, and the figures below it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Bars(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if task.fields["figures"]:
                    yield Text("  " + task.fields["figures"], style="dim")  # wraps: 80 columns do not hold it all

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=screen,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
