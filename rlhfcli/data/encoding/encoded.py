"""Token ids: what the training phases read from the prepared data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue as tokens.

    Args:
        ids: All tokens, from the first (BOS, where the template writes one) to the last end token.
        spans: Half-open ranges of ``ids`` that are learnt: what the assistant said, each answer with its end token, in
            order.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class EncodedPreference:
    """A preference as tokens: one prompt and a branch for each answer.

    Args:
        prompt: The conversation so far, up to where an answer begins (the template's words for it included).
        answers: Each with its end token, the best first.
        order: Comparisons ``(better, worse)`` as indices into ``answers``, at least one.
        margins: By how much, one number per comparison; 0 where the data does not say.
        kind: Label to report accuracy by; empty where the data has none.
    """

    prompt: list[int]
    answers: list[list[int]]
    order: list[tuple[int, int]]
    margins: list[float]
    kind: str = ""

    @classmethod
    def pair(
        cls, prompt: list[int], chosen: list[int], rejected: list[int], margin: float = 0.0, kind: str = ""
    ) -> EncodedPreference:
        """One comparison of two answers."""
        return cls(prompt, [chosen, rejected], [(0, 1)], [margin], kind)

    @property
    def sequences(self) -> list[list[int]]:
        """The prompt with each answer."""
        return [self.prompt + answer for answer in self.answers]
