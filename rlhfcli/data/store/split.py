"""Who learns from a row: decided by a hash of how its conversation begins, and of nothing else.

So a row keeps its place when other rows come, go or change their order, and one conversation never stands on two
sides: neither as several answers to one prompt, nor where a file has a row for each of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from rlhfcli.data.dialogues.dialogue import Dialogue, Preference, Turn
from rlhfcli.recipe.schema import PhaseSplitSection

Part = Literal["train", "validation"]
AssignedPhase = Literal["sft", "reward", "rlhf"]
PARTS: tuple[Part, ...] = ("train", "validation")


def prompt_key(example: Dialogue | Preference) -> str:
    """The normalised text of everything before the last answer: upper case and white space do not count.

    Args:
        example: A dialogue or a preference.

    Returns:
        The same text for rows that ask the same.
    """
    if isinstance(example, Preference):
        return normalise(example.prompt)
    return normalise(example.turns[: example.last_answer])


def conversation_key(example: Dialogue | Preference) -> str:
    """The normalised text of what a conversation begins with: the user's first turn.

    System turns do not count: many conversations share one, and one question may stand under several.

    Args:
        example: A dialogue or a preference.

    Returns:
        The same text for all rows that are a piece of the same conversation. Without a user's turn the prompt, and
        without a prompt the answer.
    """
    turns = example.prompt if isinstance(example, Preference) else example.turns[: example.last_answer]
    first = next((turn for turn in turns if turn.role == "user"), None)
    return normalise((first,)) if first is not None else prompt_key(example) or row_key(example)


def row_key(example: Dialogue | Preference) -> str:
    """The normalised text of a row up to its (best) answer.

    Args:
        example: A dialogue or a preference.
    """
    dialogue = example.preferred() if isinstance(example, Preference) else example
    return normalise(dialogue.turns[: dialogue.last_answer + 1])


def position(key: str, purpose: str) -> float:
    """A stable number in [0, 1) for a text.

    Args:
        key: From ``conversation_key``, or any other text.
        purpose: What is decided with it; different purposes give independent numbers.
    """
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def place_of(key: str) -> float:
    """Where a conversation stands in [0, 1): the lowest are kept aside.

    Args:
        key: From ``conversation_key``.
    """
    return position(key, "validation")


def part_of(key: str, validation: float) -> Part:
    """Whether a conversation is trained on or measured with.

    Args:
        key: From ``conversation_key``.
        validation: Share of the conversations that is kept aside.
    """
    return "validation" if place_of(key) < validation else "train"


def assigned_phase(key: str, phases: PhaseSplitSection) -> AssignedPhase:
    """Which phase a conversation belongs to.

    Args:
        key: From ``conversation_key``.
        phases: Relative shares.
    """
    at = position(key, "phase") * (phases.sft + phases.reward + phases.rlhf)
    if at < phases.sft:
        return "sft"
    return "reward" if at < phases.sft + phases.reward else "rlhf"


def normalise(turns: Sequence[Turn]) -> str:
    """Turns as one text in which upper case and white space do not count."""
    return "\x1e".join(f"{turn.role}\x1f{' '.join(turn.content.split()).casefold()}" for turn in turns)
