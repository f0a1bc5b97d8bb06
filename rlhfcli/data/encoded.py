"""Token ids: what the training phases read from the prepared data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue as tokens.

    Args:
        ids: All tokens, from the first (BOS, where the template writes one) to the last end token.
        spans: Half-open ranges of ``ids`` that the assistant said, each with its end token, in order.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class EncodedPair:
    """A preference as tokens: one prompt and two branches.

    Args:
        prompt: The conversation so far, up to where an answer begins (the template's words for it included).
        chosen: The preferred answer and its end token.
        rejected: The other answer and its end token.
        margin: By how much it is preferred; 0 where the data does not say.
        kind: Label to report accuracy by; empty where the data has none.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float = 0.0
    kind: str = ""
