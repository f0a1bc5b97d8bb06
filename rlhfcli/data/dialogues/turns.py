"""Read texts of a row, and dialogues that are written as one text; ``message`` reads lists of messages."""

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
"""Names of speakers that other tools use."""
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")
_PART_TEXTS = ("text", "value", "content")
_AS_PRINTED = re.compile(r"\s*\[?\s*\{\s*'|\s*\[\s*'")  # as pandas writes lists and objects into a CSV file


@dataclass(frozen=True)
class Speakers:
    """The words, each before a colon, that begin the turns of a dialogue which is written as one text.

    The colon may be the full-width one of Chinese and Japanese.

    Args:
        user: The word that begins the user's turns.
        assistant: The word that begins the assistant's turns.
        unmistakable: Whether they begin a turn anywhere; if not, only where they cannot be part of a sentence.
    """

    user: str
    assistant: str
    unmistakable: bool = False

    @property
    def roles(self) -> dict[str, Role]:
        """The role that each word stands for."""
        return {self.user: "user", self.assistant: "assistant"}

    @cached_property
    def first(self) -> re.Pattern[str]:
        """A pattern for a word at the beginning of a text."""
        return re.compile(rf"\s*({self._either})[:：]")

    @cached_property
    def at_line_start(self) -> re.Pattern[str]:
        """A pattern for a word that begins a line."""
        return re.compile(rf"\n[ \t\u3000]*({self._either})[:：]")

    @cached_property
    def anywhere(self) -> re.Pattern[str]:
        """A pattern for a word within a line, where it cannot be part of a sentence."""
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
    """A single row cannot be used; its text is the reason. The other rows are not affected.

    Args:
        reason: The text of the error.
        invalid: Whether something is wrong with the row; if not, it is skipped since it teaches nothing, as a tie.
    """

    def __init__(self, reason: str, *, invalid: bool = True) -> None:
        super().__init__(reason)
        self.invalid = invalid


def read_text(value: Any, what: str) -> str:
    """Return a value that is text; the text parts of a multimodal content are joined.

    Args:
        value: The value in the row.
        what: The name of the value in an error.

    Raises:
        RowProblem: The value is not text, or is blank.
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
    r"""Return a text that has no torn character: JSON can write ``\ud83d`` alone, which cannot be encoded.

    Args:
        text: The text in the row.
        what: The name of the text in an error.

    Raises:
        RowProblem: It has half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowProblem(f"{what} holds half a character, {text[error.start]!a}") from None
    return text


def join_parts(parts: Sequence[Any], what: str) -> tuple[str, str]:
    """Join the parts of a content, as multimodal templates and Anthropic write it: ``[{"type": "text", "text": …}]``.

    Args:
        parts: The parts, objects or bare texts.
        what: The name of the content in an error.

    Returns:
        The text, and the reasoning before it (parts of the type ``thinking``).

    Raises:
        RowProblem: A part is neither text nor reasoning.
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
    """Return whether a text is a dialogue that begins with the word of a speaker.

    Args:
        text: The text.
        speakers: The words that begin the turns.
    """
    return speakers.first.match(text) is not None


def split_transcript(text: str, speakers: Speakers = HUMAN_ASSISTANT_SPEAKERS) -> tuple[Turn, ...]:
    r"""Split ``\n\nHuman: … \n\nAssistant: …`` into turns; a text without speakers is one user turn.

    Args:
        text: The dialogue, as Anthropic and DeepSpeed-Chat write it. A last ``Assistant:`` with nothing after it only
            announces the answer, and is left out.
        speakers: The words that begin the turns.

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
    """Return a list of objects where the datasets library made an object of lists of it; else the value as it is.

    Args:
        value: A value of a row.
    """
    if isinstance(value, Mapping) and value and all(isinstance(cells, list) for cells in value.values()):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=False)]
    return value


def parse_cell(value: Any, what: str) -> Any:
    """Return the list or object that a text has as JSON, as in CSV files; else the value as it is.

    Args:
        value: A value of a row.
        what: The name of the value in an error.

    Raises:
        RowProblem: The text looks like a list or an object, but is not JSON.
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
    """Return the text of a part; Arrow tables have null where a part has none."""
    value = next((part[key] for key in keys if part.get(key) not in (None, "")), "")
    if not isinstance(value, str):
        raise RowProblem(f"{what} has a part whose text is {describe_type(value)}")
    return value


def describe_type(value: Any) -> str:
    """Return the name of a value's JSON type for an error, such as ``a list``.

    Args:
        value: The value in the row.
    """
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object",
             list: "a list", str: "text"}  # fmt: skip
    return names.get(type(value), type(value).__name__)
