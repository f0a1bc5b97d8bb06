"""Prompts and pairs to measure with, as ``eval.prompts`` and ``eval.pairs`` name them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rlhfcli.data.dialogue import Preference, Turn
from rlhfcli.data.formats import Row, convert, detect_shape, named_shapes, shape_of
from rlhfcli.data.message import turns_of
from rlhfcli.data.prompts import check_prompt
from rlhfcli.data.rows import readable
from rlhfcli.data.sources import Stream, local_streams
from rlhfcli.data.turns import RowProblem, split_transcript, text_of
from rlhfcli.errors import DataError

BUILTIN = "builtin:tiny"
_PROMPTS_PER_SKILL = 40
_PAIRS = 1200


@dataclass(frozen=True)
class PromptRow:
    """A prompt to answer.

    Args:
        turns: The conversation so far.
        accepted: Answers that count as right; empty where the file gives none.
        skill: A label to report by; empty where the file gives none.
    """

    turns: tuple[Turn, ...]
    accepted: tuple[str, ...] = ()
    skill: str = ""


def read_prompts(path: str, seed: int) -> list[PromptRow]:
    """Read prompts for generated answers.

    Args:
        path: A local file with a column ``messages`` or ``prompt``, and perhaps ``accepted`` (a text or a
            list) and ``skill``; or ``builtin:tiny``.
        seed: Of the generated ones.

    Returns:
        At least one prompt.

    Raises:
        DataError: The file or a row of it cannot be used.
    """
    if path == BUILTIN:
        from rlhfcli import tiny

        return [_prompt_row(row) for row in tiny.test_prompts(_PROMPTS_PER_SKILL, seed)]
    found: list[PromptRow] = []
    for stream in local_streams(path):
        for row, origin in stream.rows:
            try:
                found.append(_prompt_row(readable(row)))
            except RowProblem as problem:
                raise DataError(str(problem), where=str(origin), hint="Mend the row, or take it out.") from None
    return found


def read_pairs(path: str, seed: int, shape: str = "auto") -> list[Preference]:
    """Read pairs for ranking accuracy.

    Args:
        path: A local file of preferences, or ``builtin:tiny``.
        seed: Of the generated ones.
        shape: As ``format`` in a recipe.

    Returns:
        At least one pair.

    Raises:
        DataError: The file or a row of it cannot be used.
    """
    found: list[Preference] = []
    for stream in _pair_streams(path, seed):
        first = list(islice(stream.rows, 10))
        candidates = named_shapes(shape, path)
        kind = detect_shape([row for row, _ in first], candidates, stream.name)
        rows = chain(first, stream.rows)
        for row, origin in rows if kind.join is None else kind.join(rows):
            try:
                example = convert(readable(row), shape_of(row, (kind, *candidates)), origin)
                if not isinstance(example, Preference):
                    raise RowProblem("this is a dialogue; ranking needs chosen and rejected answers")
            except RowProblem as problem:
                raise DataError(str(problem), where=str(origin), hint="Mend the row, or take it out.") from None
            found.append(example)
    return found


def _pair_streams(path: str, seed: int) -> list[Stream]:
    if path != BUILTIN:
        return local_streams(path)
    from rlhfcli import tiny

    return [Stream.numbered(path, tiny.preference_pairs(_PAIRS, seed, "test"), _PAIRS)]


def _prompt_row(row: Row | Any) -> PromptRow:
    if not isinstance(row, dict) or not ("messages" in row or "prompt" in row):
        columns = ", ".join(row) if isinstance(row, dict) else "no columns"
        raise RowProblem(f"a prompt needs a column messages or prompt; this row has {columns}")
    column = "messages" if "messages" in row else "prompt"
    value = row[column]
    turns = split_transcript(text_of(value, column)) if isinstance(value, str) else turns_of(value, column)
    check_prompt(turns)
    accepted = row.get("accepted") or []
    accepted = [accepted] if isinstance(accepted, str) else accepted
    if not isinstance(accepted, list) or not all(isinstance(answer, str) for answer in accepted):
        raise RowProblem("accepted is neither a text nor a list of texts")
    return PromptRow(turns, tuple(accepted), str(row.get("skill") or ""))
