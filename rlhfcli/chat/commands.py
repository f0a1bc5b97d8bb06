"""The commands of a chat, as a table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlhfcli.chat.transcript import Saved
from rlhfcli.words import counted

_COMMAND = re.compile(r"/[A-Za-z?]*(\s|$)")  # "/usr/bin is a folder" is a message


class Session(Protocol):
    """The methods of ``ChatSession`` that the commands use."""

    def clear(self) -> None:
        """Forget the conversation."""

    def save(self, file: Path | None) -> Saved | None:
        """Add the conversation to a file.

        Args:
            file: The file; left out, that of the session.

        Returns:
            What was saved; ``None`` if nothing has been said yet.
        """


@dataclass(frozen=True)
class Outcome:
    """The effect of a command.

    Args:
        text: Text to show.
        leave: Whether the chat is over.
    """

    text: str = ""
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: Its name, with the slash.
        help: Its description in ``/help``.
        run: Its function, which gets the session and the text after the name.
        aliases: Other names.
        argument: The text that may follow the name, as ``/help`` writes it.
    """

    name: str
    help: str
    run: Callable[[Session, str], Outcome]
    aliases: tuple[str, ...] = ()
    argument: str = ""


def _help(_: Session, __: str) -> Outcome:
    usages = [f"{command.name} {command.argument}".rstrip() for command in COMMANDS]
    width = max(map(len, usages))
    lines = [f"{usage:<{width}}  {command.help}" for usage, command in zip(usages, COMMANDS, strict=True)]
    return Outcome("\n".join([*lines, "Ctrl-C stops a reply; what was written of it stays. Ctrl-D leaves."]))


def _clear(session: Session, _: str) -> Outcome:
    session.clear()
    return Outcome("A new conversation.")


def _save(session: Session, argument: str) -> Outcome:
    try:
        saved = session.save(Path(argument).expanduser() if argument else None)
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL in the name, and ~nobody without a home
        reason = error.strerror if isinstance(error, OSError) else None
        place = getattr(error, "filename", None) or argument or "the conversation"
        return Outcome(f"Not saved: {place}: {reason or error}")
    if saved is None:
        return Outcome("There is nothing to save yet.")
    left = f" Left out: {counted(saved.left_out, 'exchange')} without an answer." if saved.left_out else ""
    return Outcome(f"Saved to {saved.file}, as a row for rlhf prepare-data.{left}")


def _quit(_: Session, __: str) -> Outcome:
    return Outcome(leave=True)


COMMANDS = (
    Command("/help", "show this", _help, ("/?", "/h")),
    Command("/clear", "begin a new conversation", _clear, ("/reset", "/new")),
    Command("/save", "add the conversation to a file of dialogues", _save, argument="[FILE]"),
    Command("/quit", "leave", _quit, ("/exit", "/q", "/bye")),
)


def is_command(line: str) -> bool:
    """Return whether a line is a command and not a message to the model.

    Args:
        line: One line of input.
    """
    return _COMMAND.match(line) is not None


def run_command(line: str, session: Session) -> Outcome:
    """Run a command; an unknown one is answered with the nearest known name.

    Args:
        line: The command, beginning with a slash.
        session: The chat.
    """
    name, *rest = line.split(maxsplit=1)
    typed, argument = name.lower(), "".join(rest).strip()
    table = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
    if typed in table:
        return table[typed].run(session, argument)
    long_names = [name for name in table if len(name) > 2]  # anything short is near to /q
    near = difflib.get_close_matches(typed, long_names, n=1, cutoff=0.7)
    advice = f"Did you mean {table[near[0]].name}?" if near else "Type /help for what there is."
    return Outcome(f"There is no command {name}. {advice}")
