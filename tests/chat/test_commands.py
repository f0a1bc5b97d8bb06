"""Commands: known, abbreviated, mistyped, and messages that only look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.chat.commands import COMMANDS, is_command, run_command
from rlhfcli.chat.transcript import Saved


class Session:
    cleared = False
    asked: Path | None = Path("never asked")
    answer: Path | Exception | None = Path("runs/x/chat/chats.jsonl")

    def clear(self) -> None:
        self.cleared = True

    def save(self, file: Path | None) -> Saved | None:
        self.asked = file
        if isinstance(self.answer, Exception):
            raise self.answer
        path = file or self.answer
        return None if path is None else Saved(path)


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


SAVES = [  # line, the file that is asked for, what is said
    ("/save", None, "Saved to runs/x/chat/chats.jsonl, as a row for rlhf prepare-data."),
    ("/SAVE  ", None, "Saved to runs/x/chat/chats.jsonl, as a row for rlhf prepare-data."),
    ("/save my talks.jsonl ", Path("my talks.jsonl"), "Saved to my talks.jsonl, as a row for rlhf prepare-data."),
    ("/save\ta.jsonl", Path("a.jsonl"), "Saved to a.jsonl, as a row for rlhf prepare-data."),
    (
        "/save ~/a.jsonl",
        Path.home() / "a.jsonl",
        f"Saved to {Path.home() / 'a.jsonl'}, as a row for rlhf prepare-data.",
    ),
]


@pytest.mark.parametrize(("line", "file", "text"), SAVES)
def test_save(line: str, file: Path | None, text: str) -> None:
    session = Session()
    outcome = run_command(line, session)
    assert (outcome.text, outcome.leave, session.asked) == (text, False, file)


def test_nothing_to_save() -> None:
    session = Session()
    session.answer = None
    assert run_command("/save", session).text == "There is nothing to save yet."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/locked/a"), "Not saved: /locked/a: Permission denied"),
        (OSError(28, "No space left on device"), "Not saved: a.jsonl: No space left on device"),
        (ValueError("embedded null byte"), "Not saved: a.jsonl: embedded null byte"),
    ],
)
def test_a_failure_to_save_is_one_line(error: Exception, text: str) -> None:
    session = Session()
    session.answer = error
    assert run_command("/save a.jsonl", session).text == text


def test_a_failure_to_save_without_a_name_is_one_line() -> None:
    session = Session()
    session.answer = OSError(28, "No space left on device")
    assert run_command("/save", session).text == "Not saved: the conversation: No space left on device"


def test_an_unknown_home_is_one_line() -> None:
    assert run_command("/save ~no_such_user/a", Session()).text.startswith("Not saved: ~no_such_user/a: ")


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("/hlep", "There is no command /hlep. Did you mean /help?"),
        ("/claer", "There is no command /claer. Did you mean /clear?"),
        ("/sav", "There is no command /sav. Did you mean /save?"),
        ("/ext", "There is no command /ext. Did you mean /quit?"),
        ("/reward", "There is no command /reward. Type /help for what there is."),
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
