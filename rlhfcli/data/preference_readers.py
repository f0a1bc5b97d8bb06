"""Readers of preferences: pairs, rankings, labels that name the better answer, and strengths with a sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhfcli.data.column_use import peek
from rlhfcli.data.columns import Clean, Row, as_is, as_number, column_of, number_at, value_at
from rlhfcli.data.dialogue import Origin, Preference
from rlhfcli.data.prompts import Prompt, Turns, answer_of, answers_of, check_prompt, whole_dialogue, with_system
from rlhfcli.data.turns import RowProblem

KIND = "kind"
MARGINS: tuple[tuple[str, ...], ...] = (
    ("margin",),
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)
"""Columns that say by how much: the margin itself, or the scores whose difference it is."""


@dataclass(frozen=True)
class Paired:
    """Chosen and rejected answers; where they are lists, every chosen one is better than every rejected one.

    Args:
        prompt: The conversation before the answers; ``None``: both are whole dialogues with a common beginning.
        chosen: Path of the better answer.
        rejected: Path of the other.
        kind: Column of a label to report by.
    """

    prompt: Prompt | None = None
    chosen: str = "chosen"
    rejected: str = "rejected"
    kind: str = KIND

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        prompt = () if self.prompt is None else self.prompt.needs
        return (*prompt, column_of(self.chosen), column_of(self.rejected))

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        chosen, rejected = value_at(row, self.chosen), value_at(row, self.rejected)
        # UltraFeedback's lists hold the prompt as well.
        if self.prompt is None or (_is_dialogue(chosen) and _is_dialogue(rejected)):
            prompt, better, worse = self._whole(row, chosen, rejected)
        else:
            better, worse = answers_of(chosen, self.chosen), answers_of(rejected, self.rejected)
            prompt = self.prompt(row)
        check_prompt(prompt)
        if {text.strip() for text in better} & {text.strip() for text in worse}:
            raise RowProblem(f"{self.chosen} and {self.rejected} are the same text")
        margin = _margin(row)
        order = tuple((i, len(better) + j) for i in range(len(better)) for j in range(len(worse)))
        margins = () if margin is None else (margin,) * len(order)
        return Preference(prompt, (*better, *worse), order, origin, margins, _label(row, self.kind))

    def _whole(self, row: Row, chosen: Any, rejected: Any) -> tuple[Turns, list[str], list[str]]:
        better, worse = whole_dialogue(chosen, self.chosen), whole_dialogue(rejected, self.rejected)
        if better[:-1] != worse[:-1]:
            raise RowProblem(
                f"{self.chosen} and {self.rejected} part before their last answer: they have no common prompt"
            )
        if len(better) == 1:
            raise RowProblem(f"{self.chosen} and {self.rejected} have no prompt before the answer")
        return with_system(row, better[:-1]), [better[-1].content], [worse[-1].content]


@dataclass(frozen=True)
class Ranked:
    """Several answers to a prompt, with scores, with ranks, or the best first.

    Args:
        prompt: The conversation before the answers.
        answers: Path of a list of answers, or one path for each.
        scores: Path of their scores (higher is better), or one for each. The differences are the margins.
        ranks: Path of their ranks (lower is better), used where there are no scores.
        optional: Whether rows without these scores and ranks have the best answer first.
        kind: Column of a label to report by.
        clean: Applied to each answer.
    """

    prompt: Prompt
    answers: str | tuple[str, ...]
    scores: str | tuple[str, ...] | None = None
    ranks: str | None = None
    optional: bool = False
    kind: str = KIND
    clean: Clean = as_is

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        paths = [*_paths(self.answers)]
        if not self.optional:
            paths += [*_paths(self.scores), *_paths(self.ranks)]
        return tuple(dict.fromkeys((*self.prompt.needs, *map(column_of, paths))))

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        answers = _each(row, self.answers, "answers")
        texts = [answer_of(value, what, self.clean) for what, value in answers]
        if len(texts) < 2:
            raise RowProblem("there is only one answer: nothing to compare it with")
        prompt = self.prompt(row)
        check_prompt(prompt)
        if self.scores is not None and self._has(row, self.scores):
            points, measured = self._numbers(row, self.scores, len(texts)), True
        elif self.ranks is not None and self._has(row, self.ranks):
            points, measured = [-rank for rank in self._numbers(row, self.ranks, len(texts))], False
        else:
            points, measured = [-float(place) for place in range(len(texts))], False
        found = Preference.ranking(prompt, texts, points, origin, _label(row, self.kind))
        if not found.order:
            raise RowProblem(_why_none(texts), fault=False)
        return found if measured else replace(found, margins=())  # a rank says who is better, not by how much

    def _has(self, row: Row, paths: str | tuple[str, ...]) -> bool:
        return not self.optional or all(peek(row, column_of(path)) is not None for path in _paths(paths))

    def _numbers(self, row: Row, paths: str | tuple[str, ...], count: int) -> list[float]:
        found = _each(row, paths, "scores")
        if len(found) != count:
            raise RowProblem(f"there are {count} answers, and {len(found)} scores or ranks")
        return [as_number(value, what) for what, value in found]


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
        better = [at for at, name in enumerate(self.names) if str(said) == str(name)]
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
            raise RowProblem(f"{self.strength} is 0: none of the answers is preferred", fault=False)
        return _pair(self, row, origin, int(strength > 0), abs(strength))


def _pair(reader: Labelled | Compared, row: Row, origin: Origin, better: int, margin: float | None) -> Preference:
    texts = [answer_of(value_at(row, path), path) for path in reader.answers]
    prompt = reader.prompt(row)
    check_prompt(prompt)
    if texts[0].strip() == texts[1].strip():
        raise RowProblem(_why_none(texts), fault=False)
    return Preference.pair(prompt, texts[better], texts[1 - better], origin, margin, _label(row, reader.kind))


# --- what a row says beside its texts -----------------------------------------------------------------------


def _margin(row: Row) -> float | None:
    """By how much the chosen answer is better, where the row says so."""
    for columns in MARGINS:
        if any(peek(row, column) is None for column in columns):
            continue
        numbers = [number_at(row, column) for column in columns]
        if len(numbers) == 1:
            return numbers[0]
        if numbers[0] == numbers[1]:
            raise RowProblem("both answers have the same score: none is preferred", fault=False)
        if numbers[0] < numbers[1]:
            raise RowProblem(f"{columns[0]} is below {columns[1]}: the row contradicts itself")
        return numbers[0] - numbers[1]
    return None


def _label(row: Row, column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and not any(isinstance(item, str) for item in value)


def _paths(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if paths is None else (paths,) if isinstance(paths, str) else paths


def _each(row: Row, paths: str | tuple[str, ...], what: str) -> list[tuple[str, Any]]:
    """The values of several paths, or of the list at one, each with a name for messages."""
    if isinstance(paths, tuple):
        return [(path, value_at(row, path)) for path in paths]
    values = value_at(row, paths)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RowProblem(f"{paths} is not a list of {what}")
    return [(f"{paths}: number {number}", value) for number, value in enumerate(values, 1)]


def _why_none(texts: Sequence[str]) -> str:
    every = "both" if len(texts) == 2 else "all"
    if len({text.strip() for text in texts}) == 1:
        return f"{every} answers are the same text"
    return f"{every} answers have the same score: none is preferred"
