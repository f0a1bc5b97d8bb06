"""The chat in a pipe and on a terminal (a real one: a pty)."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.chat.session import ChatSession
from rlhfcli.chat.terminal import answer_once, header, reward_line, run_terminal
from rlhfcli.chat.transcript import Record
from rlhfcli.core.generation.decode import Decoding
from rlhfcli.errors import DataError

Says = Callable[..., list[list[int]]]


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_in_a_pipe_every_line_is_a_turn(
    session: ChatSession,
    says: Says,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = says(" Hello!", " 2 + 2 is 4.")
    type_in(monkeypatch, "Hi\n\n  What is 2 + 2?  \n")
    run_terminal(session)
    assert capsys.readouterr() == ("Hello!\n2 + 2 is 4.\n", "")
    assert "Hello!" in tokenizer.decode(prompts[1])


def test_commands_work_in_a_pipe_and_keep_off_its_output(
    session: ChatSession, says: Says, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(" One", " Two")
    type_in(monkeypatch, "a\n/clear\n/hlep\nb\n/quit\nc\n")
    run_terminal(session)
    out, err = capsys.readouterr()
    assert out == "One\nTwo\n"
    assert err == "A new conversation.\nThere is no command /hlep. Did you mean /help?\n"
    assert len(session.turns) == 2


def test_a_line_of_invalid_utf8_is_named(
    session: ChatSession, says: Says, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(" One")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\ncaf\xe9\nb\n"), encoding="utf-8"))
    with pytest.raises(DataError, match="this message is not UTF-8") as caught:
        run_terminal(session)
    assert caught.value.where == "line 2 of the input: caf\\udce9"
    assert capsys.readouterr().out == "One\n"


def test_forgotten_messages_are_reported(
    session: ChatSession, says: Says, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says(*[" reply."] * 9)
    type_in(monkeypatch, "".join(f"This is message number {i}, and a long one.\n" for i in range(8)) + "x" * 900)
    run_terminal(session)
    err = capsys.readouterr().err.splitlines()
    oldest = "the oldest 2 messages of this conversation no longer fit into the context"
    assert err[0] == f"({oldest}; /clear begins a new one)"
    assert err[-1] == "(your message does not fit into the context: the model saw only its end)"


def test_the_header_names_both_models(session: ChatSession, model: Any, tokenizer: Any) -> None:
    assert header(session).splitlines() == [
        f"model          {session.record.model}",
        "reward model   none",
        "replies        always the likeliest word, at most 20 tokens",
        "context        256 tokens",
    ]
    warm = ChatSession(model, tokenizer, Decoding(20, temperature=0.7), record=Record(Path("c"), "m", "r"))
    assert "reward model   r\nreplies        temperature 0.7, at most 20" in header(warm)


def test_one_answer(session: ChatSession, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    says(" Paris.")
    answer_once(session, "Capital of France?")
    assert capsys.readouterr().out == "Paris.\n"


def test_the_reward_follows_the_reply(
    model: Any, tokenizer: Any, scorer: RewardModel, says: Says, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = ChatSession(model, tokenizer, Decoding(20), scorer)
    says(" Paris.")
    answer_once(chat, "Capital of France?")
    score = chat.score()
    assert score is not None
    assert capsys.readouterr().out == f"Paris.\nreward {score:+.2f}\n"


def test_a_model_cannot_move_the_cursor(session: ChatSession, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    says(" a\x1b[2Jb\r\x07c\td\ne\x9bf")
    answer_once(session, "Hi")
    assert capsys.readouterr().out == "a[2Jbc\td\nef\n"


@pytest.mark.parametrize(
    ("score", "scale", "line"),
    [
        (1.234, None, "reward +1.23"),
        (-0.5, None, "reward -0.50"),
        (1.5, (0.5, 2.0), "reward +1.50 (0.5 standard deviations above the mean)"),
        (-3.5, (0.5, 2.0), "reward -3.50 (2.0 standard deviations below the mean)"),
    ],
)
def test_reward_lines(score: float, scale: tuple[float, float] | None, line: str) -> None:
    assert reward_line(score, scale) == line


SCRIPT = """
import time
from rlhfcli.chat import terminal

class Chat:
    reward = None
    forgotten = cut = 0
    def reply(self, text):
        try:
            for word in ("You", " said", f" {text!r}."):
                yield word
            if text == "long":
                for i in range(200):
                    yield f" {i}"
                    time.sleep(0.05)
        finally:
            self.kept = True
    def score(self):
        return None
    def clear(self):
        pass

terminal.header = lambda _: "who speaks"
terminal.run_terminal(Chat())
print("left the chat")
"""


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, script: str) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            # a suite that a shell has put into the background ignores Ctrl-C, and so would what it starts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Read until ``text`` comes; return what came before and with it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += self.read()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def read(self) -> str:
        try:
            return os.read(self.master, 4096).decode()
        except OSError:  # what Linux says when the other side is gone
            raise AssertionError(f"the program ended: {self.seen!r}") from None

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> int:
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal(SCRIPT)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_a_conversation_on_a_terminal(terminal: Terminal) -> None:
    terminal.wait_for("you>")
    terminal.type("Hello\r")
    terminal.wait_for("You said 'Hello'.")
    terminal.wait_for("you>")
    terminal.type("long\r")
    terminal.wait_for(" 3 4")
    terminal.process.send_signal(signal.SIGINT)  # Ctrl-C during a reply
    terminal.wait_for("(stopped)")
    terminal.wait_for("you>")
    terminal.type("/hlep\r")
    terminal.wait_for("Did you mean /help?")
    terminal.wait_for("you>")
    terminal.type("\x1b[200~two\nlines\x1b[201~\r")  # a paste, as terminals mark it
    terminal.wait_for(r"You said 'two\nlines'.")
    terminal.wait_for("you>")
    terminal.type("half a line")
    terminal.wait_for("half a line")
    time.sleep(0.5)  # Python's readline misses a signal between the echo of a key and its wait for the next one
    terminal.process.send_signal(signal.SIGINT)  # Ctrl-C at the prompt throws the line away
    terminal.wait_for("you>")
    terminal.type("\x04")  # Ctrl-D
    terminal.wait_for("left the chat")
    assert terminal.close() == 0
