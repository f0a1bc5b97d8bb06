"""What a row of data is once its shape is understood: a dialogue, or a preference between two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue.

    Args:
        role: Who speaks.
        content: The text, without template words.
    """

    role: Role
    content: str


@dataclass(frozen=True)
class Origin:
    """Where a row came from, for messages and for counts.

    Args:
        source: The path or hub name as the recipe gives it.
        row: ``line 12`` of a JSON Lines file, ``row 12`` of anything else; counted from 1.
    """

    source: str
    row: str

    def __str__(self) -> str:
        return f"{self.source}: {self.row}"


@dataclass(frozen=True)
class Dialogue:
    """A conversation to imitate; what SFT trains on.

    Args:
        turns: At least one of them the assistant's.
        origin: Where it came from.
    """

    turns: tuple[Turn, ...]
    origin: Origin


@dataclass(frozen=True)
class Preference:
    """A prompt and two answers to it, of which people preferred the first; what the reward model trains on.

    Args:
        prompt: The conversation so far, ending with a turn that is not the assistant's.
        chosen: The preferred answer.
        rejected: The other one.
        origin: Where it came from.
        margin: By how much it is preferred, where the data says so.
        kind: A label to report accuracy by (``wrong``, ``rude`` ...), where the data has one.
    """

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    origin: Origin
    margin: float | None = None
    kind: str | None = None

    def preferred(self) -> Dialogue:
        """The dialogue that ends with the chosen answer: what SFT learns from a preference."""
        return Dialogue((*self.prompt, Turn("assistant", self.chosen)), self.origin)
