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
    """The file for saved conversations, and the names that are written beside them.

    Args:
        file: The file, unless the user names another one.
        model: Folder or hub name of the language model.
        reward: That of the reward model; ``None``: replies are not scored.
    """

    file: Path
    model: str
    reward: str | None = None


@dataclass(frozen=True)
class Saved:
    """A conversation that was saved.

    Args:
        file: The file.
        left_out: Number of exchanges that are not in it, because the reply is empty and no row may have an empty turn.
    """

    file: Path
    left_out: int = 0


def append(path: Path, turns: Sequence[Turn], rewards: Mapping[int, float], record: Record) -> Saved | None:
    """Add a conversation to a file as one line.

    Args:
        path: The file; it is created if it does not exist, and its folder too if it is the record's file.
        turns: The conversation: the user's and the assistant's turns alternate.
        rewards: The rewards that are known, by the index of the turn.
        record: The names to write beside it.

    Returns:
        What was saved; ``None`` if no exchange has both turns.

    Raises:
        OSError: The file cannot be written; it is as it was.
        ValueError: The file contains something else.
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
    """Add a line to a file of dialogues: all of it, or nothing."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        if end and not _is_dialogue(file.readline()):
            raise ValueError("it contains something other than dialogues; name a new file")
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
    """Return whether a line is a dialogue in the format ``messages``."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("messages"), list)
