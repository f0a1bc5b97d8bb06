"""Output for people: results on stdout; progress, notes and errors on stderr; nothing on ranks other than the first.

Thus ``rlhf eval --json > result.json`` writes JSON alone into the file while the progress is still shown. Nothing here
takes markup: what a user, a file or a model wrote is shown as it is, with signs for control characters.

    screen.py     the two streams, on which every text is harmless
    sink.py       progress on a terminal or in a log
    notebook.py   progress in a notebook
    figures.py    loss, speed and memory in words

May import ``progress``, ``errors`` and ``words``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from rlhfcli.console.figures import clock, figures_text
from rlhfcli.console.notebook import NotebookSink
from rlhfcli.console.screen import Screen, messages, results
from rlhfcli.console.sink import TerminalSink
from rlhfcli.errors import OutputError, Problem, RecipeError, RlhfError
from rlhfcli.words import visible

__all__ = [
    "NotebookSink",
    "Screen",
    "TerminalSink",
    "clock",
    "figures_text",
    "message",
    "messages",
    "next_steps",
    "result",
    "results",
    "show_error",
    "write_result",
]


def message(text: str, style: str = "") -> None:
    """Print a line for people on stderr.

    Args:
        text: The line.
        style: Of Rich, such as ``dim``.
    """
    messages.print_line(Text(text, style=style))


def result(*what: RenderableType) -> None:
    """Print results on stdout: tables, or text as it is, such as that of ``--json``.

    Args:
        what: Anything Rich can draw; a ``str`` is printed without wrapping or markup.

    Raises:
        OutputError: Stdout cannot be written, as on a full disk.
    """
    for part in what:
        if isinstance(part, str):
            write_result(part + "\n")
            continue
        with _writing():
            results.print(part)


def write_result(text: str) -> None:
    """Write text on stdout as it is; on a terminal with signs for control characters.

    Args:
        text: Not wrapped, because another program may read it.

    Raises:
        OutputError: Stdout cannot be written, as on a full disk.
    """
    if results.quiet:
        return
    with _writing():
        sys.stdout.write(visible(text) if results.is_terminal else text)
        sys.stdout.flush()


def show_error(error: RlhfError) -> None:
    """Show an error without its traceback: as a panel, or as plain lines where there is no terminal.

    Args:
        error: The error.
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
        steps: Commands, or commands with a description.
    """
    pairs = [(step, "") if isinstance(step, str) else step for step in steps]
    width = max((len(command) for command, _ in pairs), default=0)
    message("")
    message("next:", style="bold")
    for command, purpose in pairs:
        line = Text("  ").append(command.ljust(width) if purpose else command, style="cyan")
        messages.print_line(line.append(f"   {purpose}" if purpose else ""))


@contextmanager
def _writing() -> Iterator[None]:
    """Turn a failure of stdout into one message, except that of a pipe whose reader has ended (``| head``)."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python fails once more when it exits
        what = f"the results cannot be written: {(error.strerror or str(error)).lower()}"
        raise OutputError(what, where="stdout") from None


def _problem(problem: Problem) -> Text:
    """Draw a problem of a recipe; its place is bold, so that one sees where the next begins."""
    place = ": ".join(part for part in (problem.where, problem.key) if part)
    return Text(overflow="fold").append(place, style="bold").append(f": {problem.what}")
