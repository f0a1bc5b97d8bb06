"""Readers of arenas' data: two models answered the same person, who said which did better."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhfcli.data.dialogues.columns import Row, number_at, value_at
from rlhfcli.data.dialogues.dialogue import Origin, Preference, Turn
from rlhfcli.data.dialogues.turns import RowProblem, describe_type, read_text
from rlhfcli.data.shapes.prompts import Turns, check_prompt, read_dialogue

_WINNERS = {"model_a": 0, "model_b": 1}


@dataclass(frozen=True)
class ArenaTexts:
    """LMSYS' 55k rows: ``prompt`` and both responses are lists in JSON, ``winner_model_a`` and others say 0 or 1."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b")

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        asked = _texts(row, "prompt")
        both = [self._dialogue(asked, _texts(row, column), column) for column in ("response_a", "response_b")]
        votes = [number_at(row, column) for column in ("winner_model_a", "winner_model_b")]
        row.get("winner_tie")
        if votes[0] == votes[1]:
            raise RowProblem("the vote was a tie: none is preferred", invalid=False)
        return _preference(both, int(votes[1] > votes[0]), origin)

    def _dialogue(self, asked: Sequence[str], said: Sequence[str], column: str) -> Turns:
        if len(asked) != len(said):
            raise RowProblem(f"prompt has {len(asked)} turns, and {column} {len(said)}")
        pairs = zip(asked, said, strict=True)
        return tuple(turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer)))


@dataclass(frozen=True)
class ArenaConversations:
    """The later arenas: ``conversation_a`` and ``conversation_b`` are lists of messages, ``winner`` is a name."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return ("conversation_a", "conversation_b", "winner")

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        winner = str(value_at(row, "winner"))
        if winner.startswith(("tie", "both_bad", "both bad")):
            raise RowProblem(f"the vote was {winner}: none is preferred", invalid=False)
        if winner not in _WINNERS:
            raise RowProblem(f"winner is {winner!r}: it names none of the answers")
        both = [read_dialogue(value_at(row, column), column) for column in ("conversation_a", "conversation_b")]
        return _preference(both, _WINNERS[winner], origin)


def _preference(both: Sequence[Turns], better: int, origin: Origin) -> Preference:
    if both[0][:-1] != both[1][:-1]:
        raise RowProblem(
            "the two conversations part before their last answer: they have no common prompt", invalid=False
        )
    prompt, texts = both[0][:-1], [dialogue[-1].content for dialogue in both]
    if not prompt:
        raise RowProblem("the conversations have no prompt before the answer")
    check_prompt(prompt)
    if texts[0].strip() == texts[1].strip():
        raise RowProblem("both answers are the same text", invalid=False)
    return Preference.pair(prompt, texts[better], texts[1 - better], origin)


def _texts(row: Row, column: str) -> list[str]:
    """Return a list of texts, which may be written as JSON; an answer that is null was never given."""
    value: Any = value_at(row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"{column} is a text that is not a JSON list") from None
    if not isinstance(value, list):
        raise RowProblem(f"{column} is {describe_type(value)}, not a list of texts")
    return [read_text(item, f"{column}: number {number}") for number, item in enumerate(value, 1)]
