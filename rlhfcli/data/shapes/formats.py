"""Row shapes: which columns a row has, and how it becomes a dialogue or a preference.

A shape is one entry of ``SHAPES``: a name and a reader. To support a new shape, add an entry; the first one whose
columns all exist is chosen, so shapes with more columns come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any

from rlhfcli.data.dialogues.column_use import WatchedRow
from rlhfcli.data.dialogues.columns import Row
from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.dialogues.side_columns import LABELS, TOOLS, with_side_columns
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.shapes.arena import ArenaConversations, ArenaTexts
from rlhfcli.data.shapes.catalogue import (
    COMPLETIONS,
    DOLLY,
    ENTRIES,
    HELPSTEER2,
    HELPSTEER3,
    JUDGEBENCH,
    OASST,
    OPENAI_PAIRS,
    RMB_BEST_OF_N,
    RMB_PAIRS,
    SAFE_RLHF,
    SHP,
    ULTRAFEEDBACK,
    WEBGPT,
    Entry,
    entries_of,
    find_entry,
)
from rlhfcli.data.shapes.preference_readers import MARGINS, Paired, Ranked, Replaced
from rlhfcli.data.shapes.prompts import ALPACA, BESIDE, SYSTEM, Prompt
from rlhfcli.data.shapes.readers import Answered, Example, Exchanges, Messages, PlainText, Reader
from rlhfcli.data.shapes.row_joins import Join, MessageTrees
from rlhfcli.errors import DataError

__all__ = ["SHAPES", "Example", "Row", "Shape", "convert", "detect_shape", "known_columns", "named_shapes", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """One way to write a row.

    Args:
        name: The name of the shape for a recipe's ``format``.
        reader: Converts such a row into a dialogue or a preference.
        families: The names of groups of shapes, which a recipe may use as well.
        join: Joins the rows of a file before they are converted, if examples are spread over several.
        alone: Whether such rows never occur among rows of other shapes.
    """

    name: str
    reader: Reader
    families: tuple[str, ...] = ()
    join: Join | None = None
    alone: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that a row of the file must have."""
        return self.reader.needs if self.join is None else self.join.needs


def _as_shape(entry: Entry) -> Shape:
    return Shape(entry.name, entry.reader, join=entry.join)


_PROMPT = Prompt("prompt", BESIDE, "history")
_QUESTION = Prompt("question", BESIDE, "history")
_PLAIN_QUESTION = Prompt("question", speakers=None)
_QUERY = Prompt("query", BESIDE, "history", speakers=None)
SHAPES: tuple[Shape, ...] = (
    Shape("webgpt", WEBGPT, ("pairs",)),
    Shape("helpsteer2", HELPSTEER2, ("pairs",)),
    Shape("helpsteer3", HELPSTEER3, ("pairs",)),
    Shape("shp", SHP, ("pairs",)),
    Shape("safe_rlhf", SAFE_RLHF, ("pairs",)),
    Shape("judgebench", JUDGEBENCH, ("pairs",)),
    Shape("rmb_pairs", RMB_PAIRS, ("pairs",)),
    Shape("rmb_best_of_n", RMB_BEST_OF_N, ("pairs",)),
    Shape("arena_texts", ArenaTexts(), ("pairs", "arena")),
    Shape("arena", ArenaConversations(), ("pairs",)),
    Shape("messages_lists", Paired(None, "chosen_messages", "rejected_messages"), ("pairs",)),
    Shape("messages_rejected", Replaced("messages", "rejected_messages"), ("pairs",)),
    Shape("messages_rejected_response", Replaced("messages", "rejected_response"), ("pairs",)),
    Shape("query_rejected", Paired(_QUERY, "response", "rejected_response"), ("pairs",)),
    Shape("conversations_lists", Paired(None, "chosen_conversations", "rejected_conversations"), ("pairs",)),
    Shape("stack_exchange", Paired(_PLAIN_QUESTION, "response_j", "response_k"), ("pairs",)),
    Shape("openai_pairs", OPENAI_PAIRS, ("pairs",)),
    Shape("sharegpt_pairs", Paired(Prompt("conversations")), ("pairs", "sharegpt")),
    Shape("messages_pairs", Paired(Prompt("messages")), ("pairs",)),
    Shape("prompt_pairs", Paired(_PROMPT), ("pairs",)),
    Shape("question_pairs", Paired(_QUESTION), ("pairs",)),
    Shape("alpaca_pairs", Paired(ALPACA), ("pairs", "alpaca")),
    Shape("query_pairs", Paired(_QUERY), ("pairs",)),
    Shape("dialogue_pairs", Paired(), ("pairs",)),
    Shape("ultrafeedback", ULTRAFEEDBACK, ("pairs",)),
    Shape("completions", COMPLETIONS, ("pairs",)),
    Shape("ranking", Ranked(Prompt("prompt"), "answers", "scores", "ranks", optional=True), ("pairs",)),
    Shape("messages", Messages("messages")),
    Shape("sharegpt", Messages("conversations")),
    Shape("conversation", Exchanges("conversation")),
    Shape("dialogue", Exchanges("dialogue")),
    Shape("alpaca", Answered(ALPACA, "output")),
    Shape("instruction_response", DOLLY),
    Shape("query_response", Answered(_QUERY, "response")),
    Shape("prompt_response", Answered(_PROMPT, "response")),
    Shape("prompt_completion", Answered(_PROMPT, "completion")),
    Shape("question_answer", Answered(_QUESTION, "answer")),
    Shape("question_response", Answered(_QUESTION, "response")),
    Shape("input_output", Answered(Prompt("input", ("context",), "history"), "output")),
    Shape("oasst", OASST, join=MessageTrees()),
    Shape("text", PlainText("text"), alone=True),
)
_OPTIONAL = {*SYSTEM, *BESIDE, "history", *TOOLS, *LABELS, *chain.from_iterable(MARGINS)}
"""Columns that most shapes read where a row has them."""


# --- choosing a shape ---------------------------------------------------------------------------------------


def named_shapes(name: str, where: str) -> tuple[Shape, ...]:
    """Return the shapes that a recipe's ``format`` allows, in the order in which they are tried.

    Args:
        name: ``auto``, or the name of a shape, of a family (``pairs``), or of a data set of the catalogue.
        where: The source, for the error; if the catalogue has it, its layout comes first.

    Raises:
        DataError: There is no such format.
    """
    if name == "auto":
        return (*map(_as_shape, entries_of(where)), *SHAPES)
    entry = find_entry(name)
    if entry is not None:
        return (_as_shape(entry),)
    found = tuple(shape for shape in SHAPES if name == shape.name or name in shape.families)
    if found:
        return found
    known = sorted({known for shape in SHAPES for known in (shape.name, *shape.families)} | {"auto"})
    near = get_close_matches(name, [*known, *(entry.name for entry in ENTRIES)], 1)
    raise DataError(
        f"there is no format {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        where=where,
        hint=f"Formats: {', '.join(known)}; or the hub name of a data set of the catalogue.",
    )


def detect_shape(rows: Iterable[Any], candidates: tuple[Shape, ...], where: str) -> Shape:
    """Choose the shape of a file from its first rows.

    Args:
        rows: The first rows.
        candidates: The shapes to choose from.
        where: The file, for the error.

    Returns:
        The first shape whose columns one of the rows has with values; else the first whose columns it has.

    Raises:
        DataError: No shape fits.
    """
    tables = [row for row in rows if isinstance(row, Mapping)]
    for fits in (_has, _names):
        for row in tables:
            for shape in candidates:
                if fits(row, shape):
                    return shape
    columns = ", ".join(map(str, tables[0])) if tables else "no columns at all"
    known = "\n".join(f"  {shape.name}: {', '.join(shape.needs)}" for shape in candidates)
    raise DataError(
        f"its rows fit no known shape; the first one has: {columns}",
        where=where,
        hint=f"Rename the columns to those of one of these shapes:\n{known}",
    )


def shape_of(row: Any, shapes: tuple[Shape, ...]) -> Shape:
    """Choose the shape of a row: concatenated tables of several shapes have null in the columns of the others.

    Args:
        row: The row as it was read.
        shapes: The shape of the file, then others that the row may have.

    Returns:
        The file's shape, unless the row lacks its columns and has those of another.
    """
    usual = shapes[0]
    if usual.join is not None or not isinstance(row, Mapping) or _has(row, usual):
        return usual
    return next((shape for shape in shapes if shape.join is None and not shape.alone and _has(row, shape)), usual)


def known_columns(shapes: Iterable[Shape]) -> set[str]:
    """Return all columns that shapes read, also those that a row may lack.

    Args:
        shapes: The shapes.
    """
    needed = {column for shape in shapes for column in shape.needs}
    named = {getattr(shape.reader, name, None) for shape in shapes for name in ("kind", "ratio", "scores", "ranks")}
    return needed | {name for name in named if isinstance(name, str)} | _OPTIONAL


def _has(row: Mapping[str, Any], shape: Shape) -> bool:
    if shape.join is not None:  # the first message of a tree has no parent
        return _names(row, shape)
    return all(row.get(column) is not None for column in shape.needs)


def _names(row: Mapping[str, Any], shape: Shape) -> bool:
    return all(column in row for column in shape.needs)


def convert(row: Any, shape: Shape, origin: Origin) -> Example:
    """Convert a row into a dialogue or a preference.

    Args:
        row: The row as it was read; a ``WatchedRow`` records which of its columns are read.
        shape: The shape of the row.
        origin: The place of the row.

    Raises:
        RowProblem: The row cannot be used; the text is the reason.
    """
    if not isinstance(row, Mapping):
        raise RowProblem("the row is not an object with columns")
    # What a join has put together has other columns than the rows of the file.
    missing = [column for column in shape.needs if column not in row] if shape.join is None else []
    if missing:
        raise RowProblem(f"the row lacks {', '.join(missing)}")
    watched = row if isinstance(row, WatchedRow) else WatchedRow(row)
    return with_side_columns(shape.reader(watched, origin), watched)
