"""The two kinds of example that a row of data becomes: a dialogue, or a preference between answers to one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue.

    Args:
        role: The speaker.
        content: The text, without the words of a template.
        reasoning: The reasoning of the assistant before its answer, for templates that write it
            (``message.reasoning_content``); empty if the data has none.
        train: Whether SFT trains on this turn; it trains only on turns of the assistant.
        calls: For an assistant that calls tools, its message as JSON, for templates that can write calls: ``content``
            without the calls, and ``tool_calls``. The turn's own ``content`` has the calls as text.
    """

    role: Role
    content: str
    reasoning: str = ""
    train: bool = True
    calls: str = ""


@dataclass(frozen=True)
class Origin:
    """The place of a row in its source, for messages and for counts.

    Args:
        source: The path, or the name on the hub, as the recipe gives it.
        row: ``line 12`` of a JSON Lines file, ``row 12`` of anything else; counted from 1.
    """

    source: str
    row: str

    def __str__(self) -> str:
        return f"{self.source}: {self.row}"


@dataclass(frozen=True)
class Dialogue:
    """A conversation to imitate; SFT trains on these.

    Args:
        turns: The turns, at least one of them the assistant's.
        origin: The place of its row.
        tools: The tools that the assistant may call, as a JSON list for the chat template; empty for none.
    """

    turns: tuple[Turn, ...]
    origin: Origin
    tools: str = ""

    @property
    def last_answer(self) -> int:
        """The index of the last turn that is trained on; the turns behind it teach nothing."""
        return max(k for k, turn in enumerate(self.turns) if turn.role == "assistant" and turn.train)


@dataclass(frozen=True)
class Preference:
    """A prompt, and answers to it of which people preferred some to others; reward models train on these.

    The smallest preference is a pair. A ranking of K answers is one preference with up to K (K - 1) / 2 comparisons, so
    that its prompt is stored and computed once.

    Args:
        prompt: The conversation so far; its last turn is not the assistant's.
        answers: The answers, at least two, the best first.
        order: Comparisons ``(better, worse)`` as indices into ``answers``, at least one; ties are left out.
        origin: The place of its row.
        margins: For each comparison, how much the better answer is preferred; empty if the data does not say.
        kind: A label to report accuracy by (``wrong``, ``rude`` ...), if the data has one.
        tools: The tools that the assistant may call, as a JSON list for the chat template; empty for none.
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
        """Make a preference of two answers.

        Args:
            prompt: The conversation so far.
            chosen: The better answer.
            rejected: The worse answer.
            origin: The place of its row.
            margin: How much the better answer is preferred; ``None`` if the data does not say.
            kind: A label to report accuracy by, if the data has one.
        """
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
        """Make a preference of scored answers: the higher score is preferred, by the difference of the scores.

        Args:
            prompt: The conversation so far.
            answers: The answers, in any order.
            scores: A score for each answer. Answers with the same score, or with the same text, are not compared.
            origin: The place of its row.
            kind: A label to report accuracy by, if the data has one.

        Returns:
            A preference; its ``order`` is empty if no answer is preferred to another.
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
        """Return the dialogue that ends with the best answer; SFT trains on that."""
        return Dialogue((*self.prompt, Turn("assistant", self.answers[0])), self.origin, self.tools)


def is_plain(turns: Sequence[Turn]) -> bool:
    """Return whether a dialogue is plain text: a single turn of the assistant, without a prompt.

    Args:
        turns: The turns of the dialogue.
    """
    return len(turns) == 1 and turns[0].role == "assistant"
