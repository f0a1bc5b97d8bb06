"""Conversations as lines of a file that ``rlhf prepare-data`` reads: the format ``messages``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhfcli.data.dialogue import Turn


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


def append(path: Path, turns: Sequence[Turn], rewards: Mapping[int, float], record: Record) -> None:
    """Add a conversation to a file as one line.

    Args:
        path: The file; it is made, and its folder too, where there is none.
        turns: The conversation.
        rewards: The rewards that are known, by the number of the turn.
        record: What else to write down.

    Raises:
        OSError: It cannot be written.
    """
    row: dict[str, object] = {
        "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
        "model": record.model,
    }
    if record.reward is not None:
        row["reward_model"] = record.reward
        row["rewards"] = [rewards.get(number) for number, turn in enumerate(turns) if turn.role == "assistant"]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A terminal can hand over bytes that are no UTF-8; as an escape they are still JSON.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
