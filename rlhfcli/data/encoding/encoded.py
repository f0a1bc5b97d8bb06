"""The examples that the training phases read from the prepared data, as token ids."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue as tokens.

    Args:
        ids: All tokens, from the first (BOS, if the template writes one) to the last end token.
        spans: Half-open ranges of ``ids`` that are trained on: the assistant's answers, each with its end token.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class EncodedPreference:
    """A preference as tokens: one prompt and a branch for each answer.

    Args:
        prompt: The conversation so far, with the generation prompt of the template.
        answers: The answers, each with its end token, the best first.
        order: Comparisons ``(better, worse)`` as indices into ``answers``, at least one.
        margins: For each comparison, how much the better answer is preferred; 0 if the data does not say.
        kind: A label to report accuracy by; empty if the data has none.
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
        """Make a preference of two answers.

        Args:
            prompt: The tokens of the prompt.
            chosen: The tokens of the better answer.
            rejected: The tokens of the worse answer.
            margin: How much the better answer is preferred; 0 if that is not known.
            kind: A label to report accuracy by.
        """
        return cls(prompt, [chosen, rejected], [(0, 1)], [margin], kind)

    @property
    def sequences(self) -> list[list[int]]:
        """The prompt with each answer."""
        return [self.prompt + answer for answer in self.answers]
