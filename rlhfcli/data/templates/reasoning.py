"""Read the parts of an assistant's turn: its reasoning, its answer, and the tools that it calls."""

from __future__ import annotations

import json
import re

from rlhfcli.data.dialogues.dialogue import Turn

_THOUGHT_ENDS = re.compile(r"</(think\w*)>")


def split_reasoning(turn: Turn) -> tuple[str, str]:
    """Return the reasoning and the answer of a turn; reasoning may stand in its text, up to ``</think>``.

    Args:
        turn: A turn of the assistant.
    """
    if turn.calls:
        return turn.reasoning.strip("\n"), str(json.loads(turn.calls)["content"])
    if turn.reasoning:
        return turn.reasoning.strip("\n"), turn.content
    ends = _THOUGHT_ENDS.search(turn.content)
    if ends is None:
        return "", turn.content
    thought = turn.content[: ends.start()].strip().removeprefix(f"<{ends[1]}>")
    return thought.strip("\n"), turn.content[ends.end() :].lstrip("\n")


def called_tools(turn: Turn) -> list[str]:
    """Return the names of the tools that a turn calls.

    Args:
        turn: Any turn.
    """
    return [call["function"]["name"] for call in json.loads(turn.calls)["tool_calls"]] if turn.calls else []


def squeeze(text: str) -> str:
    """Return a text with single spaces for all white space.

    Args:
        text: Any text.
    """
    return " ".join(text.split())
