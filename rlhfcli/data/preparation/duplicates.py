"""Recognise examples that were seen before, exactly or but for upper case and white space."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from rlhfcli.data.dialogues.dialogue import Dialogue, Preference, Turn
from rlhfcli.data.store.counts import DUPLICATE, NEAR_DUPLICATE, SAME_BUT_UNREAD
from rlhfcli.data.store.split import normalise

_SHORT = 6  # bytes of a digest that only tells two rows apart
Duplicates = Literal["drop", "drop_exact", "keep"]


class DuplicateFilter:
    """Remembers examples by their digests, some hundred bytes each.

    Two dialogues are duplicates if their turns up to the last answer are equal; two preferences if their prompts, their
    answers and the order of these are. Tools, reasoning and the choice of trained turns have to be equal as well.

    Args:
        policy: The recipe's ``data.duplicates``.
    """

    def __init__(self, policy: Duplicates = "drop") -> None:
        self._policy = policy
        self._exact: dict[bytes, bytes] = {}
        self._normalised: set[bytes] = set()

    def add(self, example: Dialogue | Preference, unread: str = "") -> str | None:
        """Remember an example.

        Args:
            example: A dialogue or a preference.
            unread: The unread values of its row, as text.

        Returns:
            The kind of duplicate; ``None`` if it is new.
        """
        if self._policy == "keep":
            return None
        turns, besides = _said(example)
        exact = _digest("\x1e".join(f"{turn.role}\x1f{turn.content}" for turn in turns), besides)
        rest = _digest(unread, "")[:_SHORT]
        if exact in self._exact:
            return DUPLICATE if self._exact[exact] == rest else SAME_BUT_UNREAD
        self._exact[exact] = rest
        if self._policy == "drop_exact":
            return None
        near = _digest(normalise(turns), besides)
        if near in self._normalised:
            return NEAR_DUPLICATE
        self._normalised.add(near)
        return None


def _said(example: Dialogue | Preference) -> tuple[Sequence[Turn], str]:
    """Return the turns to compare, and all else to compare: order of answers, tools, reasoning, untrained turns."""
    if isinstance(example, Dialogue):
        turns: Sequence[Turn] = example.turns[: example.last_answer + 1]
        order = ""
    else:
        turns = (*example.prompt, *(Turn("assistant", answer) for answer in example.answers))
        order = str(example.order)
    thoughts = [f"{k}\x1f{turn.reasoning}\x1f{turn.train}" for k, turn in enumerate(turns) if not _plain(turn)]
    return turns, "\x1e".join((order, example.tools, *thoughts))


def _plain(turn: Turn) -> bool:
    return turn.train and not turn.reasoning


def _digest(text: str, order: str) -> bytes:
    return blake2b(f"{order}\x1d{text}".encode("utf-8", "surrogatepass"), digest_size=12).digest()
