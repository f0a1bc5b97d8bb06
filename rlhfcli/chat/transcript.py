"""Conversations as lines of a file that ``rlhf prepare-data`` reads: the format ``messages``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhfcli.data.dialogues.dialogue import Turn


@dataclass(frozen=True)
class Record:
    """What is written down beside a conversation, and where.

    Args:
        file: Where conversations go unless the user names another file.
        model: The folder or hub name of the model that speaks.
        reward: That of the reward model; ``None``: replies are not scored.
    """

    file: Path
    model: str
    reward: str | None = None


@dataclass(frozen=True)
class Saved:
    """What has been saved.

    Args:
        file: Where.
        left_out: Exchanges that are not in it: the model said nothing, and no row may hold an empty turn.
    """

    file: Path
    left_out: int = 0


def append(path: Path, turns: Sequence[Turn], rewards: Mapping[int, float], record: Record) -> Saved | None:
    """Add a conversation to a file as one line.

    Args:
        path: The file; it is made where there is none, and its folder too if it is the record's.
        turns: The conversation: in turn the user's and the assistant's.
        rewards: The rewards that are known, by the number of the turn.
        record: What else to write down.

    Returns:
        What was written; ``None`` if there is no exchange with two sides.

    Raises:
        OSError: It cannot be written; the file is as it was.
        ValueError: The file holds something else.
    """
    exchanges = range(0, len(turns), 2)
    kept = [k for k in exchanges if all(turn.content.strip() for turn in turns[k : k + 2])]
    if not kept:
        return None
    row: dict[str, object] = {
        "messages": [{"role": turn.role, "content": turn.content} for k in kept for turn in turns[k : k + 2]],
        "model": record.model,
    }
    if record.reward is not None:
        row["reward_model"] = record.reward
        row["rewards"] = [rewards.get(k + 1) for k in kept]
    if path == record.file:
        path.parent.mkdir(parents=True, exist_ok=True)
    _add_line(path, json.dumps(row, ensure_ascii=False))
    return Saved(path, len(exchanges) - len(kept))


def _add_line(path: Path, line: str) -> None:
    """Add a line to a file of dialogues: as a whole, or not at all."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        if end and not _is_dialogue(file.readline()):
            raise ValueError("it holds something else than dialogues; name a new file")
        file.seek(max(end - 1, 0))
        begin = b"" if file.read(1) in (b"", b"\n") else b"\n"
        try:
            file.write(begin + line.encode(errors="backslashreplace") + b"\n")
            file.flush()
        except OSError:
            with path.open("rb+") as whole:
                whole.truncate(end)
            raise


def _is_dialogue(line: bytes) -> bool:
    """Whether a line is one that this file writes, or a row of the same shape."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("messages"), list)
