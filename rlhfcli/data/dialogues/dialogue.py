"""What a row of data is once its shape is understood: a dialogue, or a preference between answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue.

    Args:
        role: Who speaks.
        content: The text, without template words.
        reasoning: What an assistant thought before it answered, for templates that write it
            (``message.reasoning_content``); empty where the data has none.
        train: Whether SFT learns this turn; only an assistant's turn is ever learnt.
        calls: Where an assistant calls tools, the message for templates with words for that: its ``content`` without
            the calls, and ``tool_calls``, as JSON. The turn's own ``content`` has the calls as text.
    """

    role: Role
    content: str
    reasoning: str = ""
    train: bool = True
    calls: str = ""


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
        tools: What the assistant may call, as a JSON list that the chat template is given; empty for none.
    """

    turns: tuple[Turn, ...]
    origin: Origin
    tools: str = ""

    @property
    def last_answer(self) -> int:
        """Which turn is the last one that is learnt; what follows it teaches nothing."""
        return max(k for k, turn in enumerate(self.turns) if turn.role == "assistant" and turn.train)


@dataclass(frozen=True)
class Preference:
    """A prompt and answers to it, of which people preferred some to others; what the reward model trains on.

    A pair is the smallest one; a ranking of K answers is one preference with up to K (K - 1) / 2 comparisons, so
    that its prompt is stored and computed once.

    Args:
        prompt: The conversation so far, ending with a turn that is not the assistant's.
        answers: At least two, the best first.
        order: Comparisons ``(better, worse)`` as indices into ``answers``, at least one; ties are not in it.
        origin: Where it came from.
        margins: By how much the better one is preferred, one number per comparison; empty where the data does not
            say.
        kind: A label to report accuracy by (``wrong``, ``rude`` ...), where the data has one.
        tools: What the assistant may call, as a JSON list that the chat template is given; empty for none.
    """

    prompt: tuple[Turn, ...]
    answers: tuple[str, ...]
    order: tuple[tuple[int, int], ...]
    origin: Origin
    margins: tuple[float, ...] = ()
    kind: str | None = None
    tools: str = ""

    @classmethod
    def pair(
        cls,
        prompt: tuple[Turn, ...],
        chosen: str,
        rejected: str,
        origin: Origin,
        margin: float | None = None,
        kind: str | None = None,
    ) -> Preference:
        """One comparison of two answers."""
        return cls(prompt, (chosen, rejected), ((0, 1),), origin, () if margin is None else (margin,), kind)

    @classmethod
    def ranking(
        cls,
        prompt: tuple[Turn, ...],
        answers: Sequence[str],
        scores: Sequence[float],
        origin: Origin,
        kind: str | None = None,
    ) -> Preference:
        """All comparisons of answers with scores: the higher score is preferred, by the difference of the scores.

        Args:
            prompt: The conversation so far.
            answers: In any order.
            scores: One for each answer. Answers of the same score, or of the same text, are not compared.
            origin: Where it came from.
            kind: A label, where the data has one.

        Returns:
            A preference whose ``order`` may be empty, if nothing is preferred to anything.
        """
        best_first = sorted(range(len(answers)), key=lambda k: -scores[k])
        texts, points = [answers[k] for k in best_first], [scores[k] for k in best_first]
        order = tuple(
            (i, j)
            for i in range(len(texts))
            for j in range(i + 1, len(texts))
            if points[i] > points[j] and texts[i].strip() != texts[j].strip()
        )
        margins = tuple(float(points[i] - points[j]) for i, j in order)
        return cls(prompt, tuple(texts), order, origin, margins, kind)

    def preferred(self) -> Dialogue:
        """The dialogue that ends with the best answer: what SFT learns from a preference."""
        return Dialogue((*self.prompt, Turn("assistant", self.answers[0])), self.origin, self.tools)


def is_plain(turns: Sequence[Turn]) -> bool:
    """Whether a dialogue is plain text: the assistant says all of it, and nobody asked."""
    return len(turns) == 1 and turns[0].role == "assistant"
