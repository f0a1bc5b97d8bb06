"""Dialogues for fine-tuning, and held-out prompts with their accepted answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from rlhfcli.tiny.skills.planner import SKILLS, plan, plan_towards
from rlhfcli.tiny.world.exchange import Exchange

_TURNS = (1, 2, 3, 4, 5, 6)
_TURN_WEIGHTS = (3, 2, 3, 3, 2, 2)


def as_messages(exchanges: Sequence[Exchange]) -> list[dict[str, str]]:
    """Convert exchanges to chat messages.

    Args:
        exchanges: Questions and answers in order.

    Returns:
        Alternating messages of user and assistant.
    """
    messages: list[dict[str, str]] = []
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    return messages


def dialogues(count: int, seed: int, reading: bool = False) -> Iterator[dict[str, Any]]:
    """Make training dialogues.

    Args:
        count: Number of dialogues.
        seed: Same seed, same dialogues.
        reading: Leave out what is held out from pre-training; for the tokenizer's sample.

    Returns:
        Rows ``{"messages": [...], "skill": str}`` of one to six user turns; the skill is the last turn's.
    """
    rng = Random(f"dialogues {seed}")
    for _ in range(count):
        exchanges = plan(rng, rng.choices(_TURNS, _TURN_WEIGHTS)[0], "train", reading)
        yield {"messages": as_messages(exchanges), "skill": exchanges[-1].skill}


def test_prompts(per_skill: int, seed: int) -> Iterator[dict[str, Any]]:
    """Make prompts that never occur in training, with the answers that count as an exact match.

    Args:
        per_skill: Number of prompts for each of ``SKILLS``.
        seed: Same seed, same prompts.

    Returns:
        Rows ``{"messages": [... ends with a user turn], "skill": str, "accepted": [str, ...]}``.
    """
    rng = Random(f"test prompts {seed}")
    for skill in SKILLS:
        for _ in range(per_skill):
            exchanges = plan_towards(rng, skill, "test")
            yield {
                "messages": as_messages(exchanges)[:-1],
                "skill": skill,
                "accepted": [exchanges[-1].answer],
            }


# otherwise pytest would collect it as a test
test_prompts.__test__ = False  # type: ignore[attr-defined]
