"""Readers of two answers with a column that names the better one, or says how much better it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlhfcli.data.dialogues.columns import Row, column_of, number_at, value_at
from rlhfcli.data.dialogues.dialogue import Origin, Preference
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.shapes.preference_readers import KIND, no_preference_reason, report_label
from rlhfcli.data.shapes.prompts import Prompt, check_prompt, read_answer


@dataclass(frozen=True)
class Labelled:
    """Two answers, and a column that names the better one.

    Args:
        prompt: The conversation before the answers.
        answers: Paths of both.
        label: Column that names the better one.
        names: What it says for the first answer, and for the second.
        ratio: Column of the better answer's score divided by the other's, if there is one; its natural logarithm
            is the margin, because ratios multiply and margins add.
        kind: Column of a label to report by.
    """

    prompt: Prompt
    answers: tuple[str, str]
    label: str
    names: tuple[Any, Any]
    ratio: str | None = None
    kind: str = KIND

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (*self.prompt.needs, *map(column_of, self.answers), column_of(self.label))

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        said = value_at(row, self.label)
        better = [at for at, name in enumerate(self.names) if _names(said, name) or said == self.answers[at]]
        if not better:
            raise RowProblem(f"{self.label} is {said!r}: it names none of the answers")
        margin = None
        if self.ratio is not None and row.get(self.ratio) is not None:
            ratio = number_at(row, self.ratio)
            if ratio <= 0:
                raise RowProblem(f"{self.ratio} is not above 0")
            margin = math.log(ratio)
        return _pair(self, row, origin, better[0], margin)


@dataclass(frozen=True)
class Compared:
    """Two answers, and a number that is below 0 where the first is better, above 0 where the second is.

    Args:
        prompt: The conversation before the answers.
        answers: Paths of both.
        strength: Path of the number; without its sign it is the margin.
        kind: Column of a label to report by.
    """

    prompt: Prompt
    answers: tuple[str, str]
    strength: str
    kind: str = KIND

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (*self.prompt.needs, *map(column_of, self.answers), column_of(self.strength))

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        strength = number_at(row, self.strength)
        if strength == 0:
            raise RowProblem(f"{self.strength} is 0: none of the answers is preferred", invalid=False)
        return _pair(self, row, origin, int(strength > 0), abs(strength))


def _pair(reader: Labelled | Compared, row: Row, origin: Origin, better: int, margin: float | None) -> Preference:
    texts = [read_answer(value_at(row, path), path) for path in reader.answers]
    prompt = reader.prompt(row)
    check_prompt(prompt)
    if texts[0].strip() == texts[1].strip():
        raise RowProblem(no_preference_reason(texts), invalid=False)
    return Preference.pair(prompt, texts[better], texts[1 - better], origin, margin, report_label(row, reader.kind))


def _names(said: Any, name: Any) -> bool:
    """Whether a label is a name; pandas makes 0.0 of 0, and ``true`` stands for 1."""
    if not isinstance(name, int):
        return str(said).strip() == str(name)
    try:
        return float({"true": 1, "false": 0}.get(str(said).strip().lower(), said)) == name
    except (TypeError, ValueError, OverflowError):
        return False
