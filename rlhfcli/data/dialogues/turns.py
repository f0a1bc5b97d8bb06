"""Texts of a row, and dialogues that are written as one text; ``message`` reads lists of messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlhfcli.data.dialogues.dialogue import Role, Turn

ROLES: dict[str, Role] = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
}  # fmt: skip
"""Other tools' words for who speaks."""
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")
_PART_TEXTS = ("text", "value", "content")
_AS_PRINTED = re.compile(r"\s*\[?\s*\{\s*'|\s*\[\s*'")  # as pandas writes lists and objects into a CSV file


@dataclass(frozen=True)
class Speakers:
    """The words that begin the turns of a dialogue which is written as one text; each stands before a colon.

    The colon may be the full-width one of Chinese and Japanese.

    Args:
        user: The user's word.
        assistant: The assistant's.
        unmistakable: They begin a turn wherever they stand; else only where they cannot be a part of a sentence.
    """

    user: str
    assistant: str
    unmistakable: bool = False

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
        if self.unmistakable:
            return re.compile(rf"({self._either}):")
        # Chinese and Japanese have no space after a full stop, nor after a colon.
        return re.compile(rf"(?<=[\s。！？…」』])({self._either})(?::(?=\s|\Z|[^\x00-\x7f])|：)")

    @property
    def _either(self) -> str:
        return f"{re.escape(self.user)}|{re.escape(self.assistant)}"


HUMAN_ASSISTANT_SPEAKERS = Speakers("Human", "Assistant")
USER_ASSISTANT_SPEAKERS = Speakers("USER", "ASSISTANT")
GUANACO_SPEAKERS = Speakers("### Human", "### Assistant", unmistakable=True)


class RowProblem(Exception):
    """A single row that cannot be used; its text is the reason. The other rows are not touched by it.

    Args:
        reason: For people.
        fault: Whether something is wrong with the row; else it has nothing to teach, such as a tie.
    """

    def __init__(self, reason: str, *, fault: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault


def read_text(value: Any, what: str) -> str:
    """Check that a value is text that says something.

    Args:
        value: What the row holds.
        what: How to call it in a message.

    Returns:
        The text as it is.

    Raises:
        RowProblem: It is not text, or is blank.
    """
    if isinstance(value, list) and value and all(map(_is_part, value)):
        value, thought = join_parts(value, what)
        if thought:
            raise RowProblem(f"{what} has a part of reasoning, which only a message of the assistant can have")
    if not isinstance(value, str):
        raise RowProblem(f"{what} is {describe_type(value)}, not text")
    if not value.strip():
        raise RowProblem(f"{what} is empty")
    return check_characters(value, what)


def check_characters(text: str, what: str) -> str:
    r"""Check that a text has whole characters: JSON can write ``\ud83d`` alone, which no tokenizer and no file takes.

    Args:
        text: What the row holds.
        what: How to call it in a message.

    Returns:
        The text as it is.

    Raises:
        RowProblem: It has half a one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowProblem(f"{what} holds half a character, {text[error.start]!a}") from None
    return text


def join_parts(parts: Sequence[Any], what: str) -> tuple[str, str]:
    """Join the parts of a content, as multimodal templates and Anthropic write it: ``[{"type": "text", "text": …}]``.

    Args:
        parts: Objects; a bare text counts as one.
        what: How to call the content in a message.

    Returns:
        The text, and what was thought before it (parts of the type ``thinking``).

    Raises:
        RowProblem: A part is neither.
    """
    said: list[str] = []
    thought: list[str] = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else describe_type(part)
        if kind in _THOUGHT_PARTS:
            thought.append(_part_text(part, (kind, *_PART_TEXTS), what))
            continue
        others = [key for key, value in part.items() if value is not None and key not in ("type", *_PART_TEXTS)]
        if kind not in _TEXT_PARTS or (kind is None and others):
            raise RowProblem(f"{what} has a part of type {kind or others[0]}: only text can be read")
        said.append(_part_text(part, _PART_TEXTS, what))
    return "".join(said), "\n".join(filter(None, thought))


def is_transcript(text: str, speakers: Speakers = HUMAN_ASSISTANT_SPEAKERS) -> bool:
    """Whether a text is a dialogue that begins with ``Human:`` or ``Assistant:``."""
    return speakers.first.match(text) is not None


def split_transcript(text: str, speakers: Speakers = HUMAN_ASSISTANT_SPEAKERS) -> tuple[Turn, ...]:
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
    later = [] if speakers.unmistakable else list(speakers.at_line_start.finditer(text, first.end()))
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


def as_list(value: Any) -> Any:
    """A list of objects where the datasets library made an object of lists of it; else the value as it is."""
    if isinstance(value, Mapping) and value and all(isinstance(cells, list) for cells in value.values()):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=False)]
    return value


def parse_cell(value: Any, what: str) -> Any:
    """A list or an object that stands as JSON in a text, as CSV files have it; else the value as it is.

    Raises:
        RowProblem: It looks like a list of objects, and is no JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        if _AS_PRINTED.match(value):
            kind = "a list" if value.lstrip().startswith("[") else "an object"
            raise RowProblem(f"{what} is {kind} as Python prints it, not JSON: json.dumps writes that") from None
        raise RowProblem(f"{what} is a text that is not JSON") from None


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and "role" not in part and "from" not in part


def _part_text(part: Mapping[str, Any], keys: Sequence[str], what: str) -> str:
    """The text of a part; Arrow tables have null where a part has none."""
    value = next((part[key] for key in keys if part.get(key) not in (None, "")), "")
    if not isinstance(value, str):
        raise RowProblem(f"{what} has a part whose text is {describe_type(value)}")
    return value


def describe_type(value: Any) -> str:
    """What to call the kind of a value in a message."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object",
             list: "a list", str: "text"}  # fmt: skip
    return names.get(type(value), type(value).__name__)
