"""What the terminal shows: results on stdout; progress, notes and errors on stderr. Silent off rank 0.

So ``rlhf eval --json > result.json`` has JSON alone in the file while the progress still shows. Nothing here
takes markup: whatever a user, a file or a model wrote is shown as it is.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from rlhfcli.errors import Problem, RecipeError, RlhfError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG_WIDTH = 120  # of tables in a file or a pipe, where there is no terminal to ask
LINE_EVERY = 5.0  # seconds between two lines of progress where there is no terminal


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _LOG_WIDTH
    quiet = os.environ.get("RANK", "0") != "0"
    return Console(stderr=stderr, width=width, quiet=quiet, highlight=False, markup=False, emoji=False)


results = _console(stderr=False)
messages = _console(stderr=True)


def message(text: str, style: str = "") -> None:
    """Print a line for people on stderr."""
    _line(messages, Text(text, style=style))


def result(*what: RenderableType) -> None:
    """Print results on stdout: tables, or text as it is. ``--json`` prints its text with this, too.

    Args:
        what: Anything Rich can draw; a ``str`` is printed without wrapping or markup.
    """
    for part in what:
        if not isinstance(part, str):
            results.print(part)
        elif not results.quiet:
            # not through Rich, which would wrap what another program is going to read
            sys.stdout.write(part + "\n")
            sys.stdout.flush()


def show_error(error: RlhfError) -> None:
    """Show an error without its traceback: one panel, or plain lines where there is no terminal.

    Args:
        error: Says what is wrong, where, and what to do.
    """
    if not messages.is_terminal:
        kind = error.title.lower()
        message(f"{kind if ' ' in kind or kind == 'error' else f'{kind} error'}: {error}")
        return
    parts: list[RenderableType] = []
    if error.where:
        parts.append(Text(error.where, style="bold", overflow="fold"))
    if isinstance(error, RecipeError):
        parts += [_problem(problem) for problem in error.problems]
    else:
        parts.append(Text(error.what, overflow="fold"))
    if error.hint:
        parts += [Text(), Text(error.hint, style="cyan", overflow="fold")]
    messages.print(Panel(Group(*parts), title=Text(error.title), title_align="left", border_style="red"))


def next_steps(steps: Sequence[str | tuple[str, str]]) -> None:
    """Print what to type next.

    Args:
        steps: Commands, or commands with what they do.
    """
    pairs = [(step, "") if isinstance(step, str) else step for step in steps]
    width = max((len(command) for command, _ in pairs), default=0)
    message("")
    message("next:", style="bold")
    for command, purpose in pairs:
        line = Text("  ").append(command.ljust(width) if purpose else command, style="cyan")
        _line(messages, line.append(f"   {purpose}" if purpose else ""))


class TerminalSink:
    """Shows progress: bars that move on a terminal, now and then a line elsewhere. See ``progress.Sink``.

    Args:
        console: Where to; the messages' console if left out.
        line_every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, console: Console | None = None, line_every: float = LINE_EVERY) -> None:
        self._console = console or messages
        self._line_every = line_every
        self._works: list[_Work] = []  # work may begin inside other work: an evaluation inside training
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name a part that takes a while, and its seconds once it is over."""
        began = time.monotonic()
        moving = self._console.is_terminal and not self._works
        status = self._console.status(Text(f"{name} …", style="dim")) if moving else None
        if status:
            status.start()
        elif not self._works:  # at once, so that a log shows what hangs
            _line(self._console, Text(f"{name} …"))
        ended = "failed after "
        try:
            yield
            ended = ""
        finally:
            if status:
                status.stop()
            self.note(f"{name}  {ended}{time.monotonic() - began:.1f} s")

    def begin(self, title: str, total: int, unit: str = "steps") -> None:
        """Start to show work of ``total`` units."""
        work = _Work(title, total, unit)
        self._works.append(work)
        if self._console.is_terminal and not self._console.quiet:
            if self._bars is None:
                self._bars = _bars(self._console)
                self._bars.start()
            work.bar = self._bars.add_task(title, total=total, unit=unit, figures="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show how far the work is, and its newest figures."""
        if not self._works:
            return
        work = self._works[-1]
        work.done = done
        work.figures.update(metrics)
        if self._bars is not None and work.bar is not None:
            self._bars.update(work.bar, completed=done, figures=work.told())
            if done >= work.total:  # or a short piece of work would never be seen full
                self._bars.refresh()
        elif work.due(self._line_every):
            self.note(work.line())

    def end(self) -> None:
        """Replace the bar by a line that says how it went."""
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
        """Print a line that stays."""
        _line(self._console, Text(text))


class _Work:
    """One piece of work and its newest figures."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.figures: dict[str, float] = {}
        self.bar: TaskID | None = None
        self.began = time.monotonic()
        self._last_line = -1.0

    def due(self, every: float) -> bool:
        """Whether a line is due: the first, then one per interval."""
        now = time.monotonic()
        if self._last_line >= 0 and now - self._last_line < every:
            return False
        self._last_line = now
        return True

    def told(self) -> str:
        """The figures in words."""
        return figures_text(self.figures)

    def line(self) -> str:
        """Progress as one line."""
        passed = time.monotonic() - self.began
        left = f"{clock(passed / self.done * (self.total - self.done))} left" if self.done else ""
        parts = (f"{self.title} {self.done:,}/{self.total:,} {self.unit}", self.told(), left)
        return " · ".join(part for part in parts if part)

    def summary(self) -> str:
        """What stays when the work is over."""
        passed = clock(time.monotonic() - self.began)
        parts = (f"{self.title}: {self.done:,} of {self.total:,} {self.unit} in {passed}", self.told())
        return " · ".join(part for part in parts if part)


def figures_text(figures: Mapping[str, float]) -> str:
    """Loss, learning rate, speed and memory in words.

    Args:
        figures: Metrics as the training loop names them; ``memory_gb`` is this process's peak if left out.

    Returns:
        "loss 1.234 · learning rate 1.0e-04 · 12,345 tokens/s · 1.2 GB".
    """
    words = {
        "rows": "{:,.0f} rows",
        "loss": "loss {:.4f}",
        "accuracy": "accuracy {:.3f}",
        "eval_loss": "validation loss {:.4f}",
        "eval_nll": "validation nll {:.4f}",
        "eval_accuracy": "validation accuracy {:.3f}",
        "learning_rate": "learning rate {:.1e}",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    parts = [form.format(figures[name]) for name, form in words.items() if name in figures]
    if figures:
        parts.append(f"{figures.get('memory_gb', _peak_memory_gb()):.1f} GB")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as ``0:42``, ``12:03`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bars(console: Console) -> Progress:
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
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )


def _problem(problem: Problem) -> Text:
    """One problem of a recipe; its place is bold, so that one sees where the next begins."""
    place = ": ".join(part for part in (problem.where, problem.key) if part)
    return Text(overflow="fold").append(place, style="bold").append(f": {problem.what}")


def _line(console: Console, text: Text) -> None:
    """Print one line; only a terminal has a width to wrap it at."""
    if console.is_terminal:
        console.print(text, overflow="fold")
    elif not console.quiet:
        console.file.write(text.plain + "\n")
        console.file.flush()


def _peak_memory_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
