"""Which examples were seen before: exactly, or but for upper case and white space."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from rlhfcli.data.counts import DUPLICATE, NEAR_DUPLICATE
from rlhfcli.data.dialogue import Dialogue, Preference, Turn
from rlhfcli.data.split import normalised


class Seen:
    """Remembers examples by their digests, some hundred bytes each.

    Two examples are the same if they teach the same: the turns up to the last answer of a dialogue; of a preference
    the prompt, the answers, and which one is preferred.
    """

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._normalised: set[bytes] = set()

    def add(self, example: Dialogue | Preference) -> str | None:
        """Remember an example.

        Args:
            example: A dialogue or a preference.

        Returns:
            ``None`` the first time, else what kind of duplicate it is.
        """
        turns, order = _said(example)
        near = _digest(normalised(turns), order)
        exact = _digest("\x1e".join(f"{turn.role}\x1f{turn.content}" for turn in turns), order)
        if near not in self._normalised:
            self._normalised.add(near)
            self._exact.add(exact)
            return None
        if exact in self._exact:
            return DUPLICATE
        self._exact.add(exact)
        return NEAR_DUPLICATE


def _said(example: Dialogue | Preference) -> tuple[Sequence[Turn], str]:
    """All turns that count, and which of the last ones are preferred to which."""
    if isinstance(example, Dialogue):
        return example.turns[: example.last_answer + 1], ""
    answers = (Turn("assistant", answer) for answer in example.answers)
    return (*example.prompt, *answers), str(example.order)


def _digest(text: str, order: str) -> bytes:
    return blake2b(f"{order}\x1d{text}".encode("utf-8", "surrogatepass"), digest_size=12).digest()
