"""Readers of preferences with chosen and rejected answers, or with several answers and their scores or ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhfcli.data.dialogues.column_use import peek
from rlhfcli.data.dialogues.columns import Clean, Row, as_number, column_of, number_at, unchanged, value_at
from rlhfcli.data.dialogues.dialogue import Origin, Preference
from rlhfcli.data.dialogues.turns import RowProblem, check_characters, parse_cell
from rlhfcli.data.shapes.prompts import (
    Prompt,
    Turns,
    check_prompt,
    is_dialogue,
    join_prompt,
    read_answer,
    read_answers,
    read_dialogue,
    with_system,
    without_answer,
)

KIND = "kind"
MARGINS: tuple[tuple[str, ...], ...] = (
    ("margin",),
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
"""Columns that give a margin: the margin itself, or the two scores whose difference it is."""


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
        if self.prompt is None or (is_dialogue(chosen) and is_dialogue(rejected)):
            prompt, better, worse = self._whole(row, chosen, rejected)
        else:
            better, worse = read_answers(chosen, self.chosen), read_answers(rejected, self.rejected)
            prompt = without_answer(self.prompt(row), [*better, *worse])
        return _every_pair(self, row, prompt, (better, worse), origin)

    def _whole(self, row: Row, chosen: Any, rejected: Any) -> tuple[Turns, list[str], list[str]]:
        better, worse = read_dialogue(chosen, self.chosen), read_dialogue(rejected, self.rejected)
        # UltraFeedback's lists hold the prompt as well, others only what comes after it.
        given = self.prompt is not None and peek(row, self.prompt.needs[0]) is not None
        before = self.prompt(row) if self.prompt is not None and given else ()
        if before[-len(better) :] == better:  # a conversation that was kept whole beside its last answer
            before = before[:-1]
        better, worse = join_prompt(before, better, self.chosen), join_prompt(before, worse, self.rejected)
        prompt, *texts = _common_prompt(better, worse, f"{self.chosen} and {self.rejected}")
        return with_system(row, prompt), [texts[0]], [texts[1]]


@dataclass(frozen=True)
class Replaced:
    """A dialogue that ends with the chosen answer, and the rejected answer to put in its place (ms-swift).

    Args:
        chosen: Column of the dialogue, a list of messages.
        rejected: Column of the other answer, of a list of them, or of its whole dialogue.
        kind: Column of a label to report by.
    """

    chosen: str
    rejected: str
    kind: str = KIND

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return (self.chosen, self.rejected)

    def __call__(self, row: Row, origin: Origin) -> Preference:
        """Read a row."""
        better = read_dialogue(value_at(row, self.chosen), self.chosen)
        rejected = value_at(row, self.rejected)
        prompt, answers = better[:-1], [better[-1].content]
        if is_dialogue(rejected):
            worse = join_prompt(better[:-1], read_dialogue(rejected, self.rejected), self.rejected)
            prompt, *texts = _common_prompt(better, worse, f"{self.chosen} and {self.rejected}")
            others = texts[1:]
        else:
            others = read_answers(rejected, self.rejected)
        return _every_pair(self, row, with_system(row, prompt), (answers, others), origin)


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
    clean: Clean = unchanged

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
        texts = [read_answer(value, what, self.clean) for what, value in answers]
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
        found = Preference.ranking(prompt, texts, points, origin, report_label(row, self.kind))
        if not found.order:
            raise RowProblem(no_preference_reason(texts), invalid=False)
        return found if measured else replace(found, margins=())  # a rank says who is better, not by how much

    def _has(self, row: Row, paths: str | tuple[str, ...]) -> bool:
        return not self.optional or all(peek(row, column_of(path)) is not None for path in _paths(paths))

    def _numbers(self, row: Row, paths: str | tuple[str, ...], count: int) -> list[float]:
        found = _each(row, paths, "scores")
        if len(found) != count:
            raise RowProblem(f"there are {count} answers, and {len(found)} scores or ranks")
        return [as_number(value, what) for what, value in found]


def _every_pair(
    reader: Paired | Replaced, row: Row, prompt: Turns, answers: tuple[list[str], list[str]], origin: Origin
) -> Preference:
    """Compare every chosen answer with every rejected one."""
    better, worse = answers
    check_prompt(prompt)
    if {text.strip() for text in better} & {text.strip() for text in worse}:
        raise RowProblem(f"{reader.chosen} and {reader.rejected} are the same text")
    margin = _margin(row)
    order = tuple((i, len(better) + j) for i in range(len(better)) for j in range(len(worse)))
    margins = () if margin is None else (margin,) * len(order)
    return Preference(prompt, (*better, *worse), order, origin, margins, report_label(row, reader.kind))


def _common_prompt(better: Turns, worse: Turns, what: str) -> tuple[Turns, str, str]:
    """Return the common prompt of two dialogues, and the answer of each."""
    if better[:-1] != worse[:-1]:
        raise RowProblem(f"{what} part before their last answer: they have no common prompt")
    if len(better) == 1:
        raise RowProblem(f"{what} have no prompt before the answer")
    return better[:-1], better[-1].content, worse[-1].content


# --- margins, labels, and lists of answers ------------------------------------------------------------------


def _margin(row: Row) -> float | None:
    """Return how much better the chosen answer is; ``None`` if the row does not say."""
    for columns in MARGINS:
        if any(peek(row, column) is None for column in columns):
            continue
        numbers = [number_at(row, column) for column in columns]
        if len(numbers) == 1:
            if numbers[0] < 0:
                raise RowProblem(f"{columns[0]} is {numbers[0]:g}, below zero: the row contradicts itself")
            return numbers[0]
        if numbers[0] == numbers[1]:
            raise RowProblem("both answers have the same score: none is preferred", invalid=False)
        if numbers[0] < numbers[1]:
            raise RowProblem(f"{columns[0]} is below {columns[1]}: the row contradicts itself")
        return numbers[0] - numbers[1]
    return None


def report_label(row: Row, column: str) -> str | None:
    """Return the label to report a row by; ``None`` if it has none.

    Args:
        row: The row.
        column: The column of the label.
    """
    value = row.get(column)
    return None if value is None else check_characters(str(value), column)


def _paths(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if paths is None else (paths,) if isinstance(paths, str) else paths


def _each(row: Row, paths: str | tuple[str, ...], what: str) -> list[tuple[str, Any]]:
    """Return the values at several paths, or those of the list at one path, each with a name for errors."""
    if isinstance(paths, tuple):
        return [(path, value_at(row, path)) for path in paths]
    values = parse_cell(value_at(row, paths), paths)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RowProblem(f"{paths} is not a list of {what}")
    return [(f"{paths}: number {number}", value) for number, value in enumerate(values, 1)]


def no_preference_reason(texts: Sequence[str]) -> str:
    """Return the reason why no answer is preferred to another: the texts are equal, or the scores.

    Args:
        texts: The answers.
    """
    every = "both" if len(texts) == 2 else "all"
    if len({text.strip() for text in texts}) == 1:
        return f"{every} answers are the same text"
    return f"{every} answers have the same score: none is preferred"
