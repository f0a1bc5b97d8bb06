"""What can be typed in a chat besides a message: a table of commands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_COMMAND = re.compile(r"/[A-Za-z?]*(\s|$)")  # "/usr/bin is a folder" is a message


class Clearable(Protocol):
    """What the commands need of a ``ChatSession``."""

    def clear(self) -> None:
        """Forget the conversation."""


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Args:
        text: What to show.
        leave: Whether the chat is over.
    """

    text: str = ""
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: With its slash.
        help: What it does, for ``/help``.
        run: Does it.
        aliases: Other names.
    """

    name: str
    help: str
    run: Callable[[Clearable], Outcome]
    aliases: tuple[str, ...] = ()


def _help(_: Clearable) -> Outcome:
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"{command.name:<{width}}  {command.help}" for command in COMMANDS]
    return Outcome("\n".join([*lines, "Ctrl-C stops a reply; what was said of it stays. Ctrl-D leaves."]))


def _clear(session: Clearable) -> Outcome:
    session.clear()
    return Outcome("A new conversation.")


def _quit(_: Clearable) -> Outcome:
    return Outcome(leave=True)


COMMANDS = (
    Command("/help", "show this", _help, ("/?", "/h")),
    Command("/clear", "begin a new conversation", _clear, ("/reset", "/new")),
    Command("/quit", "leave", _quit, ("/exit", "/q", "/bye")),
)


def is_command(line: str) -> bool:
    """Whether a line is meant for the program and not for the model."""
    return _COMMAND.match(line) is not None


def run_command(line: str, session: Clearable) -> Outcome:
    """Do what a command line says; an unknown one gets the nearest known name.

    Args:
        line: What was typed, beginning with a slash.
        session: The chat.

    Returns:
        What to show, and whether to leave.
    """
    words = line.split()
    typed = words[0].lower()
    table = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
    if typed in table:
        return table[typed].run(session)
    words_only = [name for name in table if len(name) > 2]  # anything short is near to /q
    near = difflib.get_close_matches(typed, words_only, n=1, cutoff=0.5)
    advice = f"Did you mean {table[near[0]].name}?" if near else "Type /help for what there is."
    return Outcome(f"There is no command {words[0]}. {advice}")
