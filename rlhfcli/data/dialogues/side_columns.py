"""Read the columns beside the texts of a row: tools, labels of wanted and unwanted answers, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlhfcli.data.dialogues.column_use import WatchedRow, has_value
from rlhfcli.data.dialogues.dialogue import Dialogue, Preference
from rlhfcli.data.dialogues.message import as_bool, without_nulls
from rlhfcli.data.dialogues.turns import RowProblem, describe_type, parse_cell

TOOLS = ("tools", "functions")
LABELS = ("kto_tag", "label")
MEDIA = ("images", "image", "audios", "audio", "videos", "video")


def with_side_columns(example: Dialogue | Preference, row: WatchedRow) -> Dialogue | Preference:
    """Apply the columns beside the texts of a row to its example.

    Args:
        example: The dialogue or preference that the texts became.
        row: The row; the columns that are used here count as read.

    Returns:
        The example with its tools.

    Raises:
        RowProblem: The row has pictures or sound, or an unwanted answer that SFT must not imitate.
    """
    refuse_media(row)
    if isinstance(example, Dialogue):
        _refuse_bad(row)
        _refuse_rejected(row)
    tools = _tools(row)
    return replace(example, tools=tools) if tools else example


def refuse_media(row: WatchedRow) -> None:
    """Reject a row that has pictures, sound or video.

    Args:
        row: The row.

    Raises:
        RowProblem: It has some.
    """
    for column in MEDIA:
        if column not in row.read and has_value(row.peek(column)):
            raise RowProblem(f"{column} is not empty: the row is about more than text, which is all that can be read")


def _refuse_bad(row: WatchedRow) -> None:
    """Reject an unwanted answer of KTO data: one answer for each row, with a label that says whether it is wanted."""
    for column in LABELS:
        value = row.peek(column)
        if column in row.read or not _is_label(column, value):
            continue
        if as_bool(row[column]) is False:
            raise RowProblem(f"{column} is false: an unwanted answer, which SFT does not imitate", invalid=False)


def _refuse_rejected(row: WatchedRow) -> None:
    """Reject a row with a rejected answer that its shape does not read: it is a preference, not a dialogue."""
    for column in row:
        if column not in row.read and str(column).startswith("reject") and has_value(row.peek(column)):
            raise RowProblem(f"{column} is not read, and makes the row a preference: name it in data.sources.columns")


def _is_label(column: str, value: Any) -> bool:
    """Return whether a value means wanted or unwanted; numbers in a column ``label`` may be classes of anything."""
    if column == "label" and (not isinstance(value, bool | str) or str(value).strip()[:1] in ("0", "1")):
        return False
    return value is not None and as_bool(value) is not None


def _tools(row: WatchedRow) -> str:
    """Return the tools that the assistant may call, as OpenAI's list in JSON; empty if the row has none."""
    for column in TOOLS:
        if column not in row.read and has_value(row.peek(column)):
            return read_tools(row[column], column)
    nested = row.peek("input")  # OpenAI's preferences
    if isinstance(nested, Mapping) and has_value(nested.get("tools")):
        return read_tools(nested["tools"], "input.tools")
    return ""


def read_tools(value: Any, what: str) -> str:
    """Read the tools of a row.

    Args:
        value: A list of functions, each OpenAI's ``{"type": "function", "function": …}`` or the function alone; an
            object, a JSON text, or a list of JSON texts stand for these.
        what: The name of the column.

    Returns:
        OpenAI's list as JSON; empty for none.

    Raises:
        RowProblem: The value is not a list of tools.
    """
    value = parse_cell(value, what)
    if value == "":
        return ""
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, list):
        raise RowProblem(f"{what} is {describe_type(value)}, not a list of tools")
    found = [without_nulls(parse_cell(tool, f"{what}: number {number}")) for number, tool in enumerate(tools, 1)]
    for number, tool in enumerate(found, 1):
        if not isinstance(tool, Mapping):
            raise RowProblem(f"{what}: number {number} is {describe_type(tool)}, not a tool")
    wrapped = [tool if "function" in tool or "name" not in tool else _wrapped(tool) for tool in found]
    return json.dumps(wrapped, ensure_ascii=False) if wrapped else ""


def _wrapped(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": tool}
