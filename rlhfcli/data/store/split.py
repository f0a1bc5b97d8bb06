"""Assign each row to training or validation, and to a phase, by a hash of the beginning of its conversation.

So a row keeps its place when other rows are added, removed or reordered, and a conversation is never in training and
validation at once: neither as several answers to one prompt, nor where a file has a row for each of its answers.
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
    """Return the normalised text of the prompt: of all turns before the last answer.

    Args:
        example: A dialogue or a preference.

    Returns:
        A text that is equal for rows with equal prompts, but for upper case and white space.
    """
    if isinstance(example, Preference):
        return normalise(example.prompt)
    return normalise(example.turns[: example.last_answer])


def conversation_key(example: Dialogue | Preference) -> str:
    """Return the normalised text of the user's first turn, with which a conversation begins.

    System turns do not count: many conversations share one, and one question may follow several.

    Args:
        example: A dialogue or a preference.

    Returns:
        A text that is equal for all rows of one conversation. Without a user's turn it is the prompt, and without a
        prompt the answer.
    """
    turns = example.prompt if isinstance(example, Preference) else example.turns[: example.last_answer]
    first = next((turn for turn in turns if turn.role == "user"), None)
    return normalise((first,)) if first is not None else prompt_key(example) or row_key(example)


def row_key(example: Dialogue | Preference) -> str:
    """Return the normalised text of a row up to its last answer, or up to the best one of a preference.

    Args:
        example: A dialogue or a preference.
    """
    dialogue = example.preferred() if isinstance(example, Preference) else example
    return normalise(dialogue.turns[: dialogue.last_answer + 1])


def position(key: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on a text alone.

    Args:
        key: A text, such as that of ``conversation_key``.
        purpose: The name of the decision; the numbers of different purposes are independent.
    """
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def place_of(key: str) -> float:
    """Return the position of a conversation in [0, 1): the lowest are for validation.

    Args:
        key: The key of the conversation, from ``conversation_key``.
    """
    return position(key, "validation")


def part_of(key: str, validation: float) -> Part:
    """Return whether a conversation is for training or for validation.

    Args:
        key: The key of the conversation, from ``conversation_key``.
        validation: The share of the conversations that is for validation.
    """
    return "validation" if place_of(key) < validation else "train"


def assigned_phase(key: str, phases: PhaseSplitSection) -> AssignedPhase:
    """Return the phase that a conversation belongs to.

    Args:
        key: The key of the conversation, from ``conversation_key``.
        phases: The relative share of each phase.
    """
    at = position(key, "phase") * (phases.sft + phases.reward + phases.rlhf)
    if at < phases.sft:
        return "sft"
    return "reward" if at < phases.sft + phases.reward else "rlhf"


def normalise(turns: Sequence[Turn]) -> str:
    """Return turns as one text, without the differences of upper case and white space.

    Args:
        turns: The turns.
    """
    return "\x1e".join(f"{turn.role}\x1f{' '.join(turn.content.split()).casefold()}" for turn in turns)
