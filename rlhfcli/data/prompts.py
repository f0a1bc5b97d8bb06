"""How a row's prompt and its answers are read: texts, messages, transcripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhfcli.data.column_use import peek
from rlhfcli.data.columns import Clean, Row, as_is, column_of, value_at
from rlhfcli.data.dialogue import Turn
from rlhfcli.data.message import turn_of, turns_of
from rlhfcli.data.turns import HUMAN_ASSISTANT, RowProblem, Speakers, is_transcript, split_transcript, text_of

Turns = tuple[Turn, ...]
SYSTEM = ("system", "system_prompt")
_ASSISTANT = re.compile(r"\s*Assistant[:：]")


@dataclass(frozen=True)
class Prompt:
    """The conversation before the answer, with what the row's ``system`` column says in front of it.

    Args:
        column: A text, a dialogue in one text, or a list of messages.
        below: Column of a text that stands below the prompt, as Alpaca's input does.
        history: Column of earlier exchanges, a list of ``[question, answer]``.
        speakers: The words that begin the turns of a dialogue in one text; ``None``: it never is one.
        clean: Applied to a text before it is split into turns.
    """

    column: str
    below: str | None = None
    history: str | None = None
    speakers: Speakers | None = HUMAN_ASSISTANT
    clean: Clean = as_is

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (column_of(self.column),)

    def __call__(self, row: Row) -> Turns:
        """Read it.

        Raises:
            RowProblem: It cannot be used.
        """
        value = value_at(row, self.column)
        if not isinstance(value, str) and self.speakers is not None:
            return with_system(row, turns_of(value, self.column))
        text = self.clean(text_of(value, self.column))
        if self.below is not None and isinstance(extra := row.get(self.below), str) and extra.strip():
            text = f"{text}\n{text_of(extra, self.below)}"
        turns = (Turn("user", text),) if self.speakers is None else split_transcript(text, self.speakers)
        return with_system(row, (*self._earlier(row), *turns))

    def _earlier(self, row: Row) -> list[Turn]:
        turns: list[Turn] = []
        exchanges = row.get(self.history) if self.history is not None else None
        for number, exchange in enumerate(exchanges or [], 1):
            if not isinstance(exchange, list | tuple) or len(exchange) != 2:
                raise RowProblem(f"{self.history}: entry {number} is not a question with its answer")
            turns.append(Turn("user", text_of(exchange[0], f"{self.history}: question {number}")))
            turns.append(Turn("assistant", text_of(exchange[1], f"{self.history}: answer {number}")))
        return turns


ALPACA = Prompt("instruction", below="input", history="history", speakers=None)


def with_system(row: Row, turns: Turns) -> Turns:
    """Put the text of a ``system`` column in front, unless the dialogue has one."""
    column = next((name for name in SYSTEM if peek(row, name) is not None), None)
    if column is None or turns[0].role == "system" or not str(peek(row, column)).strip():
        return turns
    return (Turn("system", text_of(row[column], column)), *turns)


def answer_of(value: Any, what: str, clean: Clean = as_is) -> str:
    """Read an answer that is a text, one message, or a list with one of them.

    Args:
        value: What the row holds.
        what: How to call it in a message.
        clean: Applied to the text.

    Returns:
        The text, without ``Assistant:`` in front.

    Raises:
        RowProblem: It is no answer.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        turn = turn_of(value, what)
        if turn is None or turn.role != "assistant":
            raise RowProblem(f"{what} is not the assistant's turn")
        return text_of(clean(turn.content), what)
    text = text_of(value, what)
    announced = _ASSISTANT.match(text)
    return text_of(clean(text[announced.end() :] if announced else text), what)


def answers_of(value: Any, what: str, clean: Clean = as_is) -> list[str]:
    """Read several answers.

    Args:
        value: A list of texts or of messages; one answer alone stands for a list of one.
        what: How to call it in a message.
        clean: Applied to each.

    Raises:
        RowProblem: One of them is no answer, or there is none.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1:
        return [answer_of(item, f"{what}: answer {number}", clean) for number, item in enumerate(value, 1)]
    return [answer_of(value, what, clean)]


def whole_dialogue(value: Any, what: str) -> Turns:
    """Read a dialogue that ends with the answer: a list of messages, or Anthropic's text.

    Raises:
        RowProblem: It is none.
    """
    if isinstance(value, str):
        if not is_transcript(text_of(value, what)):
            raise RowProblem(f"{what} has no turns (Human: … Assistant: …), and there is no prompt column")
        turns = split_transcript(value)
    else:
        turns = turns_of(value, what)
    if turns[-1].role != "assistant":
        raise RowProblem(f"{what} does not end with the assistant's turn")
    return turns


def check_prompt(prompt: Turns) -> None:
    """Look whether a prompt can be answered.

    Raises:
        RowProblem: It cannot.
    """
    if prompt[-1].role == "assistant":
        raise RowProblem("the prompt ends with the assistant's turn: there is nothing to answer")
    if all(turn.role == "system" for turn in prompt):
        raise RowProblem("the prompt has no user turn")
