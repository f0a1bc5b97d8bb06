"""Read the value of a row that a dotted path leads to, and clean texts of known data sets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhfcli.data.dialogues.turns import RowProblem, as_list, describe_type

Row = Mapping[str, Any]
Clean = Callable[[str], str]
_HELPSTEER_MARK = re.compile(r"\s*<extra_id_1>(Assistant|User)\s*")
_HELPSTEER_SPEAKERS = {"Assistant": "Assistant", "User": "Human"}
_CITATION = re.compile(r"[ \t]*\[\d+(?:\s*[,-]\s*\d+)*\]")


class MissingStep(RowProblem):
    """A path with a step that the row does not have.

    Args:
        reason: The text of the error.
        reached: The steps that the row has.
        there: The names that the row has in the place of the next step; empty if that place has no names.
    """

    def __init__(self, reason: str, reached: Sequence[str], there: Iterable[Any] = ()) -> None:
        super().__init__(reason)
        self.reached = tuple(reached)
        self.there = tuple(map(str, there))


def value_at(row: Row, path: str) -> Any:
    """Return the value that a path leads to.

    Args:
        row: The row.
        path: A column, or steps into it: ``question.full_text``, ``answers.ja.0.text``; a star stands for every
            element of a list, and the value is then a list: ``completions.*.response``.

    Raises:
        RowProblem: The row lacks a step; the reason names the path.
    """
    if path in row:
        return row[path]
    if column_of(path) not in row:
        raise RowProblem(f"the row lacks {column_of(path)}")
    return _follow(row, path.split("."), path)


def number_at(row: Row, path: str) -> float:
    """Return the number that a path leads to; a text such as ``2.5`` counts, because CSV files contain only texts.

    Args:
        row: The row.
        path: The path, as for ``value_at``.

    Raises:
        RowProblem: There is no finite number.
    """
    return as_number(value_at(row, path), path)


def as_number(value: Any, what: str) -> float:
    """Return a value as a number.

    Args:
        value: A value of a row: a number, or the text of one.
        what: The name of the value in an error.

    Raises:
        RowProblem: The value is not a finite number.
    """
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowProblem(f"{what} is not a number")
    return number


def column_of(path: str) -> str:
    """Return the top-level column that a path begins with.

    Args:
        path: The path.
    """
    return path.partition(".")[0]


def unchanged(text: str) -> str:
    """Return a text as it is.

    Args:
        text: The text.
    """
    return text


def without_citations(text: str) -> str:
    """Remove WebGPT's references to its sources: ``[1]``, ``[2, 3]``.

    Args:
        text: An answer of WebGPT.
    """
    return _CITATION.sub("", text)


def without_end_token(text: str) -> str:
    """Replace each ``</s>`` that a data set has as plain text by a space, and remove white space at the end.

    Args:
        text: A text of the data set.
    """
    return text.replace("</s>", " ").rstrip()


def helpsteer_turns(text: str) -> str:
    """Write a prompt of HelpSteer2 (``a <extra_id_1>Assistant b <extra_id_1>User c``) as a transcript.

    Args:
        text: The prompt.
    """
    if _HELPSTEER_MARK.search(text) is None:
        return text
    return "Human: " + _HELPSTEER_MARK.sub(lambda mark: f"\n\n{_HELPSTEER_SPEAKERS[mark[1]]}: ", text)


def _follow(value: Any, steps: Sequence[str], path: str) -> Any:
    for at, step in enumerate(steps):
        if step == "*":
            return [_follow(item, steps[at + 1 :], path) for item in _list(value, path)]
        value = _element(value, int(step), path) if step.isdigit() else _member(value, steps[at:], path)
    return value


def _member(value: Any, steps: Sequence[str], path: str) -> Any:
    """Return the value of the first of the steps that are left."""
    if isinstance(value, Mapping) and steps[0] in value:
        return value[steps[0]]
    reached = path.split(".")[: -len(steps)]
    if not isinstance(value, Mapping):
        raise MissingStep(f"{path}: {describe_type(value)} has no {steps[0]}", reached)
    raise MissingStep(f"{path}: there is no {steps[0]}", reached, value)


def _element(value: Any, index: int, path: str) -> Any:
    items = _list(value, path)
    if index >= len(items):
        raise RowProblem(f"{path}: the list has {len(items) or 'no'} elements")
    return items[index]


def _list(value: Any, path: str) -> Sequence[Any]:
    value = as_list(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowProblem(f"{path}: {describe_type(value)} stands where a list should be")
    return value
