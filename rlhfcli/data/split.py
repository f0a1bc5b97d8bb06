"""Who learns from a row: decided by a hash of its prompt alone.

So a row keeps its place when other rows come, go or change their order, and one prompt never stands on two
sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from rlhfcli.data.dialogue import Dialogue, Preference, Turn
from rlhfcli.recipe.schema import PhaseSplit

Part = Literal["train", "validation"]
Share = Literal["sft", "reward", "rlhf"]
PARTS: tuple[Part, ...] = ("train", "validation")


def prompt_key(example: Dialogue | Preference) -> str:
    """The normalised text of everything before the last answer: upper case and white space do not count.

    Args:
        example: A dialogue or a preference.

    Returns:
        The same text for rows that ask the same.
    """
    if isinstance(example, Preference):
        return normalised(example.prompt)
    return normalised(example.turns[: example.last_answer])


def position(key: str, purpose: str) -> float:
    """A stable number in [0, 1) for a text.

    Args:
        key: From ``prompt_key``.
        purpose: What is decided with it; different purposes give independent numbers.
    """
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def part_of(key: str, validation: float) -> Part:
    """Whether a prompt is trained on or measured with.

    Args:
        key: From ``prompt_key``.
        validation: Share of the prompts that is kept aside.
    """
    return "validation" if position(key, "validation") < validation else "train"


def share_of(key: str, phases: PhaseSplit) -> Share:
    """Which phase a prompt belongs to.

    Args:
        key: From ``prompt_key``.
        phases: Relative shares.
    """
    at = position(key, "phase") * (phases.sft + phases.reward + phases.rlhf)
    if at < phases.sft:
        return "sft"
    return "reward" if at < phases.sft + phases.reward else "rlhf"


def normalised(turns: Sequence[Turn]) -> str:
    """Turns as one text in which upper case and white space do not count."""
    return "\x1e".join(f"{turn.role}\x1f{' '.join(turn.content.split()).casefold()}" for turn in turns)
