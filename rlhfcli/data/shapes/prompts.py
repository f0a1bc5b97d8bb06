"""Read the prompt and the answers of a row, which may be texts, messages or transcripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhfcli.data.dialogues.column_use import peek
from rlhfcli.data.dialogues.columns import Clean, Row, column_of, unchanged, value_at
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.dialogues.message import read_turn, read_turns
from rlhfcli.data.dialogues.turns import (
    HUMAN_ASSISTANT_SPEAKERS,
    RowProblem,
    Speakers,
    describe_type,
    is_transcript,
    read_text,
    split_transcript,
)

Turns = tuple[Turn, ...]
SYSTEM = ("system", "system_prompt")
_ASSISTANT = re.compile(r"\s*Assistant[:：]")


@dataclass(frozen=True)
class Prompt:
    """Reads the conversation before the answer, with the text of the row's ``system`` column as its first turn.

    Args:
        column: The path of the prompt: a text, a dialogue in one text, or a list of messages.
        below: The columns to append to a prompt of text, as Alpaca's input; other values are written as JSON.
        history: The column of earlier exchanges: a list of ``[question, answer]``, or of messages.
        speakers: The words that begin the turns of a dialogue in one text; ``None`` if it is never one.
        clean: Cleans a text before it is split into turns.
    """

    column: str
    below: tuple[str, ...] = ()
    history: str | None = None
    speakers: Speakers | None = HUMAN_ASSISTANT_SPEAKERS
    clean: Clean = unchanged

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (column_of(self.column),)

    def __call__(self, row: Row) -> Turns:
        """Read the prompt of a row.

        Args:
            row: The row.

        Raises:
            RowProblem: The prompt cannot be used.
        """
        value = value_at(row, self.column)
        if isinstance(value, list | Mapping) and self.speakers is not None and not _is_parts(value):
            return with_system(row, (*self._earlier(row), *read_turns(value, self.column)))
        text = self.clean(read_text(value, self.column))
        turns = (Turn("user", text),) if self.speakers is None else split_transcript(text, self.speakers)
        return with_system(row, (*self._earlier(row), *turns[:-1], self._with_below(row, turns[-1])))

    def _with_below(self, row: Row, last: Turn) -> Turn:
        """Append the other columns of the prompt to its last turn."""
        if last.role != "user":
            return last
        content = last.content
        for column in self.below:
            value = peek(row, column)
            if value is None or (isinstance(value, str) and (not value.strip() or value.strip() == content.strip())):
                continue
            content = f"{content}\n{cell_text(row[column], column)}"
        return replace(last, content=content)

    def _earlier(self, row: Row) -> list[Turn]:
        exchanges = peek(row, self.history) if self.history is not None else None
        if self.history is None or not isinstance(exchanges, list | tuple):
            return []  # a text is reported as a column that is not read
        exchanges = row[self.history]
        if all(isinstance(message, Mapping) for message in exchanges):
            return list(read_turns(exchanges, self.history))
        turns: list[Turn] = []
        for number, exchange in enumerate(exchanges, 1):
            if not isinstance(exchange, list | tuple) or len(exchange) != 2:
                raise RowProblem(f"{self.history}: entry {number} is not a question with its answer")
            turns.append(Turn("user", read_text(exchange[0], f"{self.history}: question {number}")))
            turns.append(Turn("assistant", read_text(exchange[1], f"{self.history}: answer {number}")))
        return turns


BESIDE = ("input", "context")
"""Columns that belong to a prompt of text."""
ALPACA = Prompt("instruction", below=BESIDE, history="history", speakers=None)


def with_system(row: Row, turns: Turns) -> Turns:
    """Put the text of a ``system`` column in front of a dialogue, unless it has a system turn.

    Args:
        row: The row.
        turns: The dialogue, at least one turn.
    """
    column = next((name for name in SYSTEM if peek(row, name) is not None), None)
    if column is None or turns[0].role == "system" or not str(peek(row, column)).strip():
        return turns
    return (Turn("system", read_text(row[column], column)), *turns)


def read_answer(value: Any, what: str, clean: Clean = unchanged) -> str:
    """Read an answer that is a text, one message, or a list with one of them.

    Args:
        value: The value in the row.
        what: The name of the value in an error.
        clean: Cleans the text.

    Returns:
        The text, without ``Assistant:`` in front.

    Raises:
        RowProblem: The value is not an answer.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        turn = read_turn(value, what)
        if turn is None or turn.role != "assistant":
            raise RowProblem(f"{what} is not the assistant's turn")
        return read_text(clean(turn.content), what)
    text = read_text(value, what)
    announced = _ASSISTANT.match(text)
    return read_text(clean(text[announced.end() :] if announced else text), what)


def read_answers(value: Any, what: str, clean: Clean = unchanged) -> list[str]:
    """Read several answers.

    Args:
        value: A list of texts or of messages, or a single answer.
        what: The name of the value in an error.
        clean: Cleans each answer.

    Raises:
        RowProblem: There is no answer, or an element is not one.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1:
        return [read_answer(item, f"{what}: answer {number}", clean) for number, item in enumerate(value, 1)]
    return [read_answer(value, what, clean)]


def read_dialogue(value: Any, what: str) -> Turns:
    """Read a dialogue that ends with the answer: a list of messages, or a transcript.

    Args:
        value: The value in the row.
        what: The name of the value in an error.

    Raises:
        RowProblem: The value is not such a dialogue.
    """
    if isinstance(value, str):
        if not is_transcript(read_text(value, what)):
            raise RowProblem(f"{what} has no turns (Human: … Assistant: …), and there is no prompt column")
        turns = split_transcript(value)
    elif isinstance(value, Sequence | Mapping):
        turns = read_turns(value, what)
    else:
        raise RowProblem(f"{what} is {describe_type(value)}, neither a text with turns nor a list of messages")
    if turns[-1].role != "assistant":
        raise RowProblem(f"{what} does not end with the assistant's turn")
    return turns


def is_dialogue(value: Any) -> bool:
    """Return whether a value is a list of several messages.

    Args:
        value: The value in the row.
    """
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, Mapping) for item in value)


def join_prompt(before: Turns, dialogue: Turns, what: str) -> Turns:
    """Put a prompt in front of a dialogue, which may repeat all of it, its end, or nothing.

    Args:
        before: The prompt; it may be empty.
        dialogue: The dialogue, which ends with the answer.
        what: The column of the dialogue.

    Returns:
        The prompt and the dialogue, each turn once.

    Raises:
        RowProblem: They do not fit together.
    """
    known, said = [_same(turn) for turn in before], [_same(turn) for turn in dialogue]
    if any(said[start : start + len(known)] == known for start in range(len(said) - len(known))):
        return dialogue
    for count in range(min(len(known), len(said) - 1), 0, -1):
        if known[-count:] == said[:count]:
            return (*before, *dialogue[count:])
    if before and (dialogue[0].role == "system" or dialogue[0].role == before[-1].role == "user"):
        raise RowProblem(
            f"the prompt and {what} do not fit together: {what} begins with another {dialogue[0].role} turn"
        )
    return (*before, *dialogue)


def without_answer(prompt: Turns, answers: Sequence[str]) -> Turns:
    """Return a prompt without the answer at its end, if that is one of the answers in other columns.

    Args:
        prompt: The prompt.
        answers: The answers.
    """
    last = prompt[-1]
    said = last.role == "assistant" and last.content.strip() in [answer.strip() for answer in answers]
    return prompt[:-1] if said and len(prompt) > 1 else prompt


def check_prompt(prompt: Turns) -> None:
    """Check that a prompt can be answered.

    Args:
        prompt: The prompt.

    Raises:
        RowProblem: It ends with the assistant's turn, or has no user turn.
    """
    if prompt[-1].role == "assistant":
        raise RowProblem("the prompt ends with the assistant's turn: there is nothing to answer")
    check_beginning(prompt)


def check_beginning(turns: Turns) -> None:
    """Check that a user's turn precedes the assistant's.

    Args:
        turns: The dialogue.

    Raises:
        RowProblem: The assistant speaks first, or there is only a system turn.
    """
    first = next((turn.role for turn in turns if turn.role != "system"), None)
    if first is None:
        raise RowProblem("the prompt has no user turn")
    if first == "assistant":
        raise RowProblem("the assistant speaks first: there is no prompt")


def cell_text(value: Any, what: str) -> str:
    """Return a cell as text; numbers, lists and objects as JSON.

    Args:
        value: The content of the cell.
        what: The name of the cell in an error.

    Raises:
        RowProblem: The text is blank, or has half a surrogate pair.
    """
    if isinstance(value, str) or _is_parts(value):
        return read_text(value, what)
    return read_text(json.dumps(value, ensure_ascii=False, default=str), what)


def _is_parts(value: Any) -> bool:
    """Return whether a value is the content of a message in parts."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) and "type" in part for part in value)
    )


def _same(turn: Turn) -> tuple[str, str]:
    return turn.role, " ".join(turn.content.split())
