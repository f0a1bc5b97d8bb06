"""Read the prompts and pairs of evaluation sets, as ``eval.prompts`` and ``eval.pairs`` name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhfcli.data.dialogues.column_use import ColumnUse, WatchedRow, peek
from rlhfcli.data.dialogues.dialogue import Preference, Turn
from rlhfcli.data.dialogues.side_columns import refuse_media
from rlhfcli.data.dialogues.turns import RowProblem, read_text
from rlhfcli.data.reading.rows import check_readable
from rlhfcli.data.shapes.formats import Row, shape_of
from rlhfcli.data.shapes.prompts import ALPACA, BESIDE, Prompt, Turns, check_prompt, with_system
from rlhfcli.data.sources.shaping import Shaping, convert_row
from rlhfcli.data.sources.sources import Stream, local_streams
from rlhfcli.errors import DataError
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import SourceSection

_PROMPTS_PER_SKILL = 40
_PAIRS = 1200
_SKILLS = ("skill", "category")
_PROMPTS = (
    Prompt("messages"),
    Prompt("conversations"),
    Prompt("prompt", BESIDE, "history"),
    Prompt("question", BESIDE, "history"),
    ALPACA,
    Prompt("query", BESIDE, "history"),
)
"""How a prompt without an answer may be written; the first whose column holds something is taken."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt to answer.

    Args:
        turns: The conversation so far.
        accepted: Answers that count as right; empty where the file gives none.
        skill: A label to report by; empty where the file gives none.
        unasked: Questions that come after this one, and are not asked.
        group: The name of its set, where the recipe names several.
    """

    turns: tuple[Turn, ...]
    accepted: tuple[str, ...] = ()
    skill: str = ""
    unasked: int = 0
    group: str = ""


def read_prompts(path: str, seed: int, use: ColumnUse | None = None) -> list[PromptRow]:
    """Read prompts for generated answers.

    Args:
        path: A local file with a column such as ``messages``, ``prompt``, ``question`` or ``instruction``, or
            MT-bench's ``turns``, and perhaps ``accepted`` (a text or a list) and ``skill`` or ``category``; or
            ``builtin:tiny``.
        seed: Of the generated ones.
        use: Counts the columns that nobody reads.

    Returns:
        At least one prompt.

    Raises:
        DataError: The file or a row of it cannot be used.
    """
    use = ColumnUse() if use is None else use
    if path == builtin.TINY:
        from rlhfcli import tiny

        return [_prompt_row(row, use) for row in tiny.test_prompts(_PROMPTS_PER_SKILL, seed)]
    found: list[PromptRow] = []
    for stream in local_streams(path):
        for row, origin in stream.rows:
            try:
                found.append(_prompt_row(check_readable(row), use))
            except RowProblem as problem:
                raise DataError(str(problem), where=str(origin), hint="Fix the row, or take it out.") from None
    return found


def read_pairs(path: str, seed: int, shape: str = "auto", use: ColumnUse | None = None) -> list[Preference]:
    """Read pairs for ranking accuracy.

    Args:
        path: A local file of preferences, or ``builtin:tiny``.
        seed: The seed of generated pairs.
        shape: The shape of its rows, as a recipe's ``format``.
        use: Counts the columns that are not read.

    Returns:
        At least one pair.

    Raises:
        DataError: The file or a row of it cannot be used.
    """
    use = ColumnUse() if use is None else use
    shaping = Shaping(SourceSection(path=path, format=shape), use)
    found: list[Preference] = []
    for stream in _pair_streams(path, seed):
        for chunk, shapes in shaping.chunks(stream.rows, stream.name):
            for row, origin in chunk:
                try:
                    example, _ = convert_row(check_readable(row), shape_of(row, shapes), origin, use)
                    if not isinstance(example, Preference):
                        raise RowProblem("this is a dialogue; ranking needs chosen and rejected answers")
                except RowProblem as problem:
                    raise DataError(str(problem), where=str(origin), hint="Fix the row, or take it out.") from None
                found.append(example)
    return found


def _pair_streams(path: str, seed: int) -> list[Stream]:
    if path != builtin.TINY:
        return local_streams(path)
    from rlhfcli import tiny

    return [Stream.numbered(path, tiny.preference_pairs(_PAIRS, seed, "test"), _PAIRS)]


def _prompt_row(row: Row | Any, use: ColumnUse) -> PromptRow:
    watched = WatchedRow(row) if isinstance(row, Mapping) else WatchedRow({})
    accepted = watched.get("accepted") or []
    accepted = [accepted] if isinstance(accepted, str) else accepted
    if not isinstance(accepted, list) or not all(isinstance(answer, str) for answer in accepted):
        raise RowProblem("accepted is neither a text nor a list of texts")
    skill = next((str(watched[name]) for name in _SKILLS if peek(watched, name) is not None), "")
    refuse_media(watched)
    turns, unasked = _conversation(watched)
    check_prompt(turns)
    use.count(watched)
    return PromptRow(turns, tuple(accepted), skill, unasked)


def _conversation(row: WatchedRow) -> tuple[Turns, int]:
    """Return the turns of a prompt, and the number of later questions, which need the model's own answers."""
    questions = peek(row, "turns")
    if isinstance(questions, list) and questions and all(isinstance(text, str) for text in questions):  # MT-bench
        asked = row["turns"]
        return with_system(row, (Turn("user", read_text(asked[0], "turns: number 1")),)), len(asked) - 1
    for prompt in _PROMPTS:
        if peek(row, prompt.column) is not None:
            return prompt(row), 0
    columns = ", ".join(map(str, row)) or "no columns"
    known = ", ".join((*(prompt.column for prompt in _PROMPTS), "turns"))
    raise RowProblem(f"a prompt needs one of the columns {known}; this row has {columns}")
