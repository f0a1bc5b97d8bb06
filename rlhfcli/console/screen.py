"""The two streams of the terminal; control characters in anything drawn on them are replaced by visible signs.

A configuration, a column, a template or a file name may contain the sequences that clear a screen or write on it, and
so may an error about them. Every text that Rich draws, and every line that is written without Rich, is made visible
here, so that no other code has to.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Span, Text

from rlhfcli.words import has_control_characters, visible

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment

_LOG_WIDTH = 120  # characters of a table in a file or a pipe, where there is no terminal to ask


class Screen(Console):
    """A console that shows control characters as signs.

    Markup, highlighting and emoji are off: what a user, a file or a model wrote is shown as it is.

    Args:
        lasting: Drop what cannot be written, so that a full disk or a closed pipe ends no training.
        options: Those of ``rich.console.Console``.
    """

    def __init__(self, *, lasting: bool = False, **options: Any) -> None:
        self._lasting = lasting
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    @property
    def file(self) -> IO[str]:
        """The stream."""
        stream = Console.file.fget(self)  # type: ignore[attr-defined]
        return _Lasting(stream) if self._lasting else stream  # type: ignore[return-value]

    @file.setter
    def file(self, new: IO[str]) -> None:
        """Set the stream.

        Args:
            new: The stream.
        """
        Console.file.fset(self, new)  # type: ignore[attr-defined]

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Draw; Rich calls this for every text, also inside tables and panels.

        Args:
            renderable: Anything Rich can draw.
            options: Rich's.
        """
        return super().render(shown(renderable), options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Draw a text without a style.

        Args:
            text: The text.
            options: Rich's.
        """
        return super().render_str(visible(text), **options)

    def print_line(self, text: Text) -> None:
        """Print one line; it is wrapped on a terminal alone.

        Args:
            text: The line.
        """
        if self.is_terminal:
            self.print(text, overflow="fold")
        elif not self.quiet:
            self.file.write(visible(text.plain) + "\n")
            self.file.flush()


def shown(what: RenderableType) -> RenderableType:
    """Replace the control characters of a text by signs; its styles stay where they are.

    Args:
        what: Anything Rich can draw; what is not a text is returned as it is.
    """
    if isinstance(what, str):
        return visible(what)
    if not isinstance(what, Text) or not has_control_characters(what.plain):
        return what
    places = [0]
    for sign in what.plain:
        places.append(places[-1] + len(visible(sign)))
    clean = what.blank_copy(visible(what.plain))
    clean.spans = [Span(places[span.start], places[min(span.end, len(what))], span.style) for span in what.spans]
    return clean


def open_screen(*, stderr: bool) -> Screen:
    """Open a stream of this process; it is silent in all ranks but the first.

    Args:
        stderr: Open stderr, else stdout.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _LOG_WIDTH
    return Screen(stderr=stderr, width=width, quiet=_another_rank(), lasting=stderr)


def keep_streams() -> None:
    """Open the null device in place of a standard stream that was closed (``>&-``).

    Otherwise the next file that is opened gets its number, and output of libraries goes into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _another_rank() -> bool:
    """Return whether a launcher has started this process as one of several, and not as the first."""
    several = "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    return several and os.environ.get("RANK", "0") != "0"


class _Lasting:
    """A stream whose failures are ignored."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


keep_streams()
results = open_screen(stderr=False)
messages = open_screen(stderr=True)
