"""Messages of all kinds become ``Turn``; dialogues that are written as one text are split into turns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlhfcli.data.dialogue import Role, Turn

ROLES: dict[str, Role] = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "function_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip
"""Other tools' words for who speaks."""


@dataclass(frozen=True)
class Speakers:
    """The words that begin the turns of a dialogue which is written as one text; each stands before a colon.

    The colon may be the full-width one of Chinese and Japanese.

    Args:
        user: The user's word.
        assistant: The assistant's.
    """

    user: str
    assistant: str

    @property
    def roles(self) -> dict[str, Role]:
        """Who each word stands for."""
        return {self.user: "user", self.assistant: "assistant"}

    @cached_property
    def first(self) -> re.Pattern[str]:
        """The word at the beginning of a text."""
        return re.compile(rf"\s*({self._either})[:：]")

    @cached_property
    def at_line_start(self) -> re.Pattern[str]:
        """A word that begins a line."""
        return re.compile(rf"\n[ \t\u3000]*({self._either})[:：]")

    @cached_property
    def anywhere(self) -> re.Pattern[str]:
        """A word within a line, where it cannot be a part of a sentence."""
        # Chinese and Japanese have no space after a full stop, nor after a colon.
        return re.compile(rf"(?<=[\s。！？…」』])({self._either})(?::(?=\s|\Z|[^\x00-\x7f])|：)")

    @property
    def _either(self) -> str:
        return f"{re.escape(self.user)}|{re.escape(self.assistant)}"


HUMAN_ASSISTANT = Speakers("Human", "Assistant")
USER_ASSISTANT = Speakers("USER", "ASSISTANT")


class RowProblem(Exception):
    """A single row that cannot be used; its text is the reason. The other rows are not touched by it.

    Args:
        reason: For people.
        fault: Whether something is wrong with the row; else it has nothing to teach, such as a tie.
    """

    def __init__(self, reason: str, *, fault: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault


def text_of(value: Any, what: str) -> str:
    """Check that a value is text that says something.

    Args:
        value: What the row holds.
        what: How to call it in a message.

    Returns:
        The text as it is.

    Raises:
        RowProblem: It is not text, or is blank.
    """
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and "text" in part for part in value):
        value = "".join(str(part["text"]) for part in value)  # content parts, as multi-modal data has them
    if not isinstance(value, str):
        raise RowProblem(f"{what} is {kind_of(value)}, not text")
    if not value.strip():
        raise RowProblem(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write \\ud83d alone; no tokenizer takes it
        raise RowProblem(f"{what} holds half a character, {value[error.start]!a}") from None
    return value


def turn_of(message: Any, what: str) -> Turn | None:
    """Read one message: ``role``/``content`` or ``from``/``value``.

    Args:
        message: What the row holds.
        what: How to call it in a message, such as ``turn 3``.

    Returns:
        The turn; ``None`` for a system turn without text, which says nothing.

    Raises:
        RowProblem: It is no message, its role is unknown, or it has no text.
    """
    if not isinstance(message, Mapping):
        raise RowProblem(f"{what} is {kind_of(message)}, not a message with a role and its content")
    speaker = message.get("role", message.get("from"))
    if not isinstance(speaker, str):
        raise RowProblem(f"{what} does not say who speaks (role or from): it has {', '.join(map(str, message))}")
    role = ROLES.get(speaker.strip().lower())
    if role is None:
        raise RowProblem(f"{what} has the unknown role {speaker!r} (known: {', '.join(ROLES)})")
    content = message.get("content", message.get("value"))
    if role == "system" and content in (None, ""):
        return None
    return Turn(role, text_of(_with_calls(content, message), f"{what} ({speaker})"))


def turns_of(messages: Any, what: str) -> tuple[Turn, ...]:
    """Read a list of messages.

    Args:
        messages: What the row holds.
        what: The column's name.

    Returns:
        At least one turn.

    Raises:
        RowProblem: It is not a list of messages.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise RowProblem(f"{what} is {kind_of(messages)}, not a list of messages")
    found = [turn_of(message, f"{what}: turn {number}") for number, message in enumerate(messages, 1)]
    turns = tuple(turn for turn in found if turn is not None)
    if not turns:
        raise RowProblem(f"{what} has no turns")
    return turns


def is_transcript(text: str, speakers: Speakers = HUMAN_ASSISTANT) -> bool:
    """Whether a text is a dialogue that begins with ``Human:`` or ``Assistant:``."""
    return speakers.first.match(text) is not None


def split_transcript(text: str, speakers: Speakers = HUMAN_ASSISTANT) -> tuple[Turn, ...]:
    r"""Split ``\n\nHuman: … \n\nAssistant: …`` into turns; a text without speakers is one user turn.

    Args:
        text: Anthropic's and DeepSpeed-Chat's way to write a dialogue. A last ``Assistant:`` with nothing
            after it only announces the answer, and is left out.
        speakers: The words that begin the turns.

    Returns:
        The turns.

    Raises:
        RowProblem: A turn before the last one is empty.
    """
    first = speakers.first.match(text)
    if first is None:
        return (Turn("user", text),)
    later = list(speakers.at_line_start.finditer(text, first.end()))
    if not later:  # DeepSpeed-Chat's own template has both speakers in one line
        later = list(speakers.anywhere.finditer(text, first.end()))
    marks = [first, *later]
    ends = [mark.start() for mark in later] + [len(text)]
    roles = speakers.roles
    turns = [Turn(roles[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    if not turns[-1].content and turns[-1].role == "assistant":
        turns.pop()
    for number, turn in enumerate(turns, 1):
        if not turn.content:
            raise RowProblem(f"turn {number} ({turn.role}) is empty")
    return tuple(turns)


def _with_calls(content: Any, message: Mapping[str, Any]) -> Any:
    """The content, with the tools that the assistant calls as JSON below it."""
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return content
    written = json.dumps(calls, ensure_ascii=False, default=str)
    return written if content in (None, "", []) else f"{text_of(content, 'content')}\n{written}"


def kind_of(value: Any) -> str:
    """What to call the kind of a value in a message."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object",
             list: "a list", str: "text"}  # fmt: skip
    return names.get(type(value), type(value).__name__)
