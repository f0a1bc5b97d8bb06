"""Divide long dialogues whose answers are examples of their own: which turns of the history can fit at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlhfcli.data.dialogues.dialogue import Turn


def windows(turns: Sequence[Turn], lengths: Sequence[int], max_length: int) -> list[list[Turn]]:
    """Return, for each trained answer, the latest turns before it whose texts alone fit into an example.

    Args:
        turns: The dialogue.
        lengths: The tokens of each turn's text.
        max_length: The longest example, in tokens.

    Returns:
        Dialogues of which only the last answer is trained on. They begin with a user's turn, behind the system turn if
        there is one. The time is linear in the length of the dialogue.
    """
    head = [k for k in (0,) if turns[0].role == "system"]
    starts = [k for k, turn in enumerate(turns) if turn.role == "user"]
    given = [replace(turn, train=False) for turn in turns]
    found: list[list[Turn]] = []
    first, room = 0, sum(lengths[: len(head)])  # of ``starts``; tokens from there on
    counted = starts[0] if starts else 0
    for k, turn in enumerate(turns):
        if turn.role != "assistant" or not turn.train:
            continue
        room += sum(lengths[counted : k + 1])
        counted = k + 1
        while first + 1 < len(starts) and starts[first + 1] < k and room > max_length:
            room -= sum(lengths[starts[first] : starts[first + 1]])
            first += 1
        begin = starts[first] if starts and starts[first] < k else len(head)
        found.append([*given[: len(head)], *given[begin:k], turn])
    return found
