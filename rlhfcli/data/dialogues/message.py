"""Read messages of a row: the speaker, the text, reasoning, calls of tools, and whether SFT trains on the turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.dialogues.turns import ROLES, RowProblem, as_list, describe_type, join_parts, parse_cell, read_text

SPEAKER = ("role", "from")
CONTENT = ("content", "value")
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
LEARNT = ("weight", "train", "training", "trainable", "loss", "loss_weight", "loss_mask", "loss_scale")
"""Keys with which 0 or ``false`` excludes a turn from training."""
NOT_LEARNT = ("masked",)
"""Keys with which ``true`` excludes a turn from training."""
_DETAILS = ("train_detail", "training_detail")
KEYS = frozenset((*SPEAKER, *CONTENT, *CALLS, *REASONING, *LEARNT, *NOT_LEARNT))
"""All keys of a message that are read."""
_CALLERS = ("function_call", "tool_call")
"""Speakers whose content is a call, as JSON."""
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def read_turn(message: Any, what: str) -> Turn | None:
    """Read one message: ``role``/``content`` or ``from``/``value``.

    Args:
        message: The value in the row.
        what: The name of the message in an error, such as ``turn 3``.

    Returns:
        The turn; ``None`` for a system turn without text.

    Raises:
        RowProblem: The value is not a message, its role is unknown, or it has no text.
    """
    if not isinstance(message, Mapping):
        raise RowProblem(f"{what} is {describe_type(message)}, not a message with a role and its content")
    speaker = _first(message, SPEAKER)
    if not isinstance(speaker, str):
        raise RowProblem(f"{what} does not say who speaks (role or from): it has {', '.join(map(str, message))}")
    role = ROLES.get(speaker.strip().lower())
    if role is None:
        raise RowProblem(f"{what} has the unknown role {speaker!r} (known: {', '.join(ROLES)})")
    what = f"{what} ({speaker})"
    content, thought = _first(message, CONTENT), ""
    if isinstance(content, list) and content and all(isinstance(part, Mapping | str) for part in content):
        content, thought = join_parts(content, what)
    if role == "system" and content in (None, ""):
        return None
    text = read_text(_with_calls(content, message), what)
    if role != "assistant":
        return Turn(role, text)
    calls = _native_calls(speaker.strip().lower(), content, message)
    return Turn(role, text, _reasoning(message, thought, what), is_trained(message, what), calls)


def read_turns(messages: Any, what: str) -> tuple[Turn, ...]:
    """Read a list of messages.

    Args:
        messages: The value in the row.
        what: The name of the column.

    Returns:
        At least one turn.

    Raises:
        RowProblem: The value is not a list of messages.
    """
    messages = as_list(parse_cell(messages, what))
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise RowProblem(f"{what} is {describe_type(messages)}, not a list of messages")
    found = [read_turn(message, f"{what}: turn {number}") for number, message in enumerate(messages, 1)]
    turns = tuple(turn for turn in found if turn is not None)
    if not turns:
        raise RowProblem(f"{what} has no turns")
    return turns


def is_trained(message: Mapping[str, Any], what: str) -> bool:
    """Return whether SFT trains on a turn; it does unless the row says otherwise.

    Args:
        message: The message in the row.
        what: The name of the message in an error.

    Raises:
        RowProblem: The row says something between yes and no, such as a weight of 0.5.
    """
    learnt = True
    for key in (*LEARNT, *NOT_LEARNT):
        value = message.get(key)
        if value is None:
            continue
        said = as_bool(value)
        if said is None:
            raise RowProblem(f"{what} has {key} {value!r}: a turn is learnt (1, true) or not (0, false)")
        learnt = learnt and said != (key in NOT_LEARNT)
    for key in _DETAILS:
        if message.get(key):
            raise RowProblem(f"{what} has {key}: a turn is learnt as a whole, or not at all")
    return learnt


def as_bool(value: Any) -> bool | None:
    """Return a value as a truth value: ``true``, 1, or a text with one of these; ``None`` if it is neither yes nor no.

    Args:
        value: A value of a row.
    """
    return _TRUTH.get(str(value).strip().lower())


def has_reasoning(message: Mapping[str, Any]) -> bool:
    """Return whether a message has reasoning.

    Args:
        message: The message in the row.
    """
    content = _first(message, CONTENT)
    parts = content if isinstance(content, list) else []
    return any(message.get(key) for key in REASONING) or any(
        isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning") for part in parts
    )


def without_nulls(value: Any) -> Any:
    """Remove keys that are null, at every depth: Arrow tables give every object the keys of all others.

    Args:
        value: A value of a row.

    Returns:
        A copy without these keys.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _first(message: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value of the first key that is not null; tables that were concatenated have both spellings."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _reasoning(message: Mapping[str, Any], thought: str, what: str) -> str:
    said = _first(message, REASONING)
    if said in (None, "", []):
        return thought
    if isinstance(said, list):
        said = "".join(join_parts(said, what))
    return read_text(said, f"{what}: its reasoning") if not isinstance(said, str) or said.strip() else thought


def _native_calls(speaker: str, content: Any, message: Mapping[str, Any]) -> str:
    """Return a message with calls as chat templates take it; empty if it has none, or in an unknown form."""
    found, said = _first(message, CALLS), content if isinstance(content, str) else ""
    if speaker in _CALLERS and not found:
        found, said = _json(content), ""
    listed_calls = [found] if isinstance(found, Mapping) else found
    if not isinstance(listed_calls, list) or not listed_calls:
        return ""
    calls = [_native_call(call) for call in without_nulls(listed_calls)]
    return "" if None in calls else json.dumps({"content": said, "tool_calls": calls}, ensure_ascii=False)


def _native_call(call: Any) -> dict[str, Any] | None:
    """Read a call: OpenAI's ``{"type": "function", "function": …}``, or the function alone."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments", {})
    arguments = _json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        return None
    own = {"id": call["id"]} if "function" in call and isinstance(call.get("id"), str) else {}
    return {"type": "function", **own, "function": {"name": function["name"], "arguments": arguments}}


def _json(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _with_calls(content: Any, message: Mapping[str, Any]) -> Any:
    """Return the content, with the assistant's calls of tools as JSON below it."""
    calls = _first(message, CALLS)
    if not calls:
        return content
    written = json.dumps(without_nulls(calls), ensure_ascii=False, default=str)
    return written if content in (None, "", []) else f"{read_text(content, 'content')}\n{written}"
