"""Messages of all kinds become ``Turn``; dialogues that are written as one text are split into turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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

_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_BEGINS_WITH_A_SPEAKER = re.compile(r"\s*(?:Human|Assistant):")
_AT_LINE_START = re.compile(r"(?:\A|\n)[ \t]*(Human|Assistant):")
_ANYWHERE = re.compile(r"(?:\A|\s)(Human|Assistant):(?=\s|\Z)")


class RowProblem(Exception):
    """A single row that cannot be used; its text is the reason. The other rows are not touched by it."""


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
        raise RowProblem(f"{what} is {_kind(value)}, not text")
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
        raise RowProblem(f"{what} is {_kind(message)}, not a message with a role and its content")
    speaker = message.get("role", message.get("from"))
    if not isinstance(speaker, str):
        raise RowProblem(f"{what} does not say who speaks (role or from): it has {', '.join(map(str, message))}")
    role = ROLES.get(speaker.strip().lower())
    if role is None:
        raise RowProblem(f"{what} has the unknown role {speaker!r} (known: {', '.join(ROLES)})")
    content = message.get("content", message.get("value"))
    if role == "system" and content in (None, ""):
        return None
    return Turn(role, text_of(content, f"{what} ({speaker})"))


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
        raise RowProblem(f"{what} is {_kind(messages)}, not a list of messages")
    found = [turn_of(message, f"{what}: turn {number}") for number, message in enumerate(messages, 1)]
    turns = tuple(turn for turn in found if turn is not None)
    if not turns:
        raise RowProblem(f"{what} has no turns")
    return turns


def is_transcript(text: str) -> bool:
    """Whether a text is a dialogue that begins with ``Human:`` or ``Assistant:``."""
    return _BEGINS_WITH_A_SPEAKER.match(text) is not None


def split_transcript(text: str) -> tuple[Turn, ...]:
    r"""Split ``\n\nHuman: … \n\nAssistant: …`` into turns; a text without speakers is one user turn.

    Args:
        text: Anthropic's and DeepSpeed-Chat's way to write a dialogue. A last ``Assistant:`` with nothing
            after it only announces the answer, and is left out.

    Returns:
        The turns.

    Raises:
        RowProblem: A turn before the last one is empty.
    """
    if not is_transcript(text):
        return (Turn("user", text),)
    marks = list(_AT_LINE_START.finditer(text))
    if len(marks) == 1:  # DeepSpeed-Chat's own template has both speakers in one line
        marks = list(_ANYWHERE.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = [Turn(_SPEAKERS[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    if not turns[-1].content and turns[-1].role == "assistant":
        turns.pop()
    for number, turn in enumerate(turns, 1):
        if not turn.content:
            raise RowProblem(f"turn {number} ({turn.role}) is empty")
    return tuple(turns)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object",
             list: "a list", str: "text"}  # fmt: skip
    return names.get(type(value), type(value).__name__)
