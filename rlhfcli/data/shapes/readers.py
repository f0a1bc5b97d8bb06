"""Readers: how a row of certain columns becomes a dialogue or a preference.

A reader is a small description that can be called. ``formats`` has the shapes of rows that everybody writes,
``catalogue`` the data sets of the hub; both are tables of readers. Here are those of dialogues, and the choices
between readers; those of preferences stand in ``preference_readers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rlhfcli.data.dialogues.columns import Clean, Row, column_of, unchanged, value_at
from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.dialogues.message import read_turn, read_turns
from rlhfcli.data.dialogues.turns import (
    GUANACO_SPEAKERS,
    HUMAN_ASSISTANT_SPEAKERS,
    RowProblem,
    is_transcript,
    read_text,
    split_transcript,
)
from rlhfcli.data.shapes.prompts import (
    Prompt,
    Turns,
    check_beginning,
    is_dialogue,
    join_prompt,
    read_answer,
    read_dialogue,
    with_system,
)

Example = Dialogue | Preference


class Reader(Protocol):
    """Makes a dialogue or a preference of a row."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""

    def __call__(self, row: Row, origin: Origin) -> Example:
        """Read a row.

        Raises:
            RowProblem: It cannot be used; the reason is its text.
        """


# --- dialogues ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Messages:
    """A dialogue as a list of messages.

    Args:
        column: The list.
    """

    column: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (column_of(self.column),)

    def __call__(self, row: Row, origin: Origin) -> Dialogue:
        """Read a row."""
        return _dialogue(with_system(row, read_turns(value_at(row, self.column), self.column)), origin)


@dataclass(frozen=True)
class Answered:
    """A prompt and its answer in two columns.

    Args:
        prompt: The conversation before the answer.
        answer: Path of the answer.
        clean: Applied to the answer.
    """

    prompt: Prompt
    answer: str
    clean: Clean = unchanged

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (*self.prompt.needs, column_of(self.answer))

    def __call__(self, row: Row, origin: Origin) -> Dialogue:
        """Read a row."""
        value, prompt = value_at(row, self.answer), self.prompt(row)
        if is_dialogue(value) and "text" not in value[0]:  # calls of tools and what they gave, before the answer
            return _dialogue(join_prompt(prompt, read_dialogue(value, self.answer), self.answer), origin)
        message = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(message, Mapping) and (turn := read_turn(message, self.answer)) is not None and turn.reasoning:
            return _dialogue((*prompt, turn), origin)
        return _dialogue((*prompt, Turn("assistant", read_answer(value, self.answer, self.clean))), origin)


def _dialogue(turns: Turns, origin: Origin) -> Dialogue:
    if not any(turn.role == "assistant" for turn in turns):
        raise RowProblem("no turn is the assistant's: there is nothing to learn")
    check_beginning(turns)
    if not any(turn.role == "assistant" and turn.train for turn in turns):
        raise RowProblem("the row says that none of the assistant's turns is to be learnt", invalid=False)
    return Dialogue(turns, origin)


@dataclass(frozen=True)
class PlainText:
    """Plain text, all of which is learnt; where it is a dialogue in one text, that is read as one.

    Args:
        column: The text.
    """

    column: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (self.column,)

    def __call__(self, row: Row, origin: Origin) -> Dialogue:
        """Read a row."""
        text = read_text(value_at(row, self.column), self.column)
        for speakers in (GUANACO_SPEAKERS, HUMAN_ASSISTANT_SPEAKERS):
            if is_transcript(text, speakers):
                return _dialogue(with_system(row, split_transcript(text, speakers)), origin)
        return Dialogue((Turn("assistant", text),), origin)


@dataclass(frozen=True)
class Exchanges:
    """A dialogue as a list of exchanges, ``{"human": …, "assistant": …}``, or a list of messages after all.

    Args:
        column: The list.
    """

    column: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (self.column,)

    def __call__(self, row: Row, origin: Origin) -> Dialogue:
        """Read a row."""
        value = value_at(row, self.column)
        exchanges = value if isinstance(value, list) else []
        turns: list[Turn] = []
        for number, exchange in enumerate(exchanges, 1):
            keys = next((keys for keys in _EXCHANGES if isinstance(exchange, Mapping) and keys[0] in exchange), None)
            if keys is None:
                break
            what = f"{self.column}: exchange {number}"
            if not turns and exchange.get("system"):
                turns.append(Turn("system", read_text(exchange["system"], f"{what}: system")))
            turns.append(Turn("user", read_text(exchange.get(keys[0]), f"{what}: {keys[0]}")))
            turns.append(Turn("assistant", read_text(exchange.get(keys[1]), f"{what}: {keys[1]}")))
        else:
            if turns:
                return _dialogue(with_system(row, tuple(turns)), origin)
        return _dialogue(with_system(row, read_turns(value, self.column)), origin)


_EXCHANGES = (("human", "assistant"), ("input", "output"), ("user", "assistant"))


# --- choices between readers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Only:
    """Takes the rows of which a column has a certain value.

    Args:
        column: The column.
        value: What it has to say.
        reader: Reads them.
    """

    column: str
    value: str
    reader: Reader

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (*self.reader.needs, self.column)

    def __call__(self, row: Row, origin: Origin) -> Example:
        """Read a row."""
        if row[self.column] != self.value:
            raise RowProblem(f"its {self.column} is {row[self.column]}, not {self.value}", invalid=False)
        return self.reader(row, origin)


@dataclass(frozen=True)
class Either:
    """One reader for rows that have what it needs, another for the rest.

    Args:
        first: Asked first.
        second: For the other rows.
    """

    first: Reader
    second: Reader

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return tuple(column for column in self.first.needs if column in self.second.needs)

    def __call__(self, row: Row, origin: Origin) -> Example:
        """Read a row."""
        fits = all(column in row for column in self.first.needs)
        return (self.first if fits else self.second)(row, origin)
