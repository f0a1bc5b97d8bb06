"""Commands: known, abbreviated, mistyped, and messages that only look like them."""

from __future__ import annotations

import pytest

from rlhfcli.chat.commands import COMMANDS, is_command, run_command


class Session:
    cleared = False

    def clear(self) -> None:
        self.cleared = True


def test_help_names_every_command() -> None:
    text = run_command("/help", Session()).text
    assert all(command.name in text and command.help in text for command in COMMANDS)


@pytest.mark.parametrize("line", ["/clear", "/reset", "/CLEAR", "/clear now"])
def test_clear(line: str) -> None:
    session = Session()
    assert not run_command(line, session).leave
    assert session.cleared


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q", "/bye"])
def test_quit(line: str) -> None:
    assert run_command(line, Session()).leave


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("/hlep", "There is no command /hlep. Did you mean /help?"),
        ("/claer", "There is no command /claer. Did you mean /clear?"),
        ("/ext", "There is no command /ext. Did you mean /quit?"),
        ("/zzzz", "There is no command /zzzz. Type /help for what there is."),
        ("/", "There is no command /. Type /help for what there is."),
    ],
)
def test_unknown_commands_get_the_nearest_known_one(line: str, advice: str) -> None:
    session = Session()
    assert run_command(line, session).text == advice
    assert not session.cleared


@pytest.mark.parametrize("line", ["/help", "/", "/? ", "/nonsense yes"])
def test_commands(line: str) -> None:
    assert is_command(line)


@pytest.mark.parametrize("line", ["/usr/bin is a folder", "Hello", "1/2", "/3 of it", " /help"])
def test_messages(line: str) -> None:
    assert not is_command(line)


def test_names_are_unique() -> None:
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
