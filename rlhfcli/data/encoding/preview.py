"""Decode examples into pieces of text: which text is trained on, and where the answers to a prompt diverge.

An example is decoded as a whole and its text then divided. So the pieces joined are exactly the text, and a character
whose bytes lie in several tokens is never torn: it belongs to the piece in which it ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, TypeVar

from rlhfcli.data.dialogues.dialogue import Role, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.templates.segments import Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")
_MARK = "\ue000"  # stands for the content of a turn; no template writes it
_EXCHANGE: tuple[Role, ...] = ("user", "assistant")
_SYSTEM: tuple[Role, ...] = ("system",)
_LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens


@dataclass(frozen=True)
class Piece:
    """Text of one kind.

    Args:
        text: The decoded text, special tokens included.
        trained: Whether its tokens are in the loss.
        template: Whether the chat template wrote it.
    """

    text: str
    trained: bool = False
    template: bool = False


@dataclass(frozen=True)
class PreviewDialogue:
    """The text of a dialogue.

    Args:
        pieces: The pieces in order; joined they are the whole text.
    """

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class PreviewPreference:
    """The text of a prompt with its answers.

    Args:
        prompt: The pieces of the prompt.
        shared: The common beginning of all answers.
        answers: The rest of each answer with its end token, the best first.
        order: Comparisons ``(better, worse)`` as indices into ``answers``.
        margins: A margin for each comparison; 0 if the data does not say.
        kind: The label of the preference; empty if the data has none.
    """

    prompt: tuple[Piece, ...]
    shared: str
    answers: tuple[str, ...]
    order: tuple[tuple[int, int], ...]
    margins: tuple[float, ...]
    kind: str


class Previewer:
    """Decodes examples into pieces of text.

    Args:
        tokenizer: The tokenizer, with the chat template that the examples were encoded with.
        loss_on: The tokens that SFT trains on: ``assistant`` or ``all``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str = "assistant") -> None:
        self._segmenter = Segmenter(tokenizer)
        self._all = loss_on == "all"
        self._patterns: dict[tuple[tuple[Role, ...], int], re.Pattern[str] | None] = {}
        two = "".join(self._skeleton(_EXCHANGE * 2)).split(_MARK)
        self._between = two[2] if len(two) > 2 else None  # holds the end token, which no turn may say

    def dialogue(self, example: EncodedDialogue) -> PreviewDialogue:
        """Decode a dialogue.

        Args:
            example: An example of the store.

        Returns:
            Its text; the words of the template are pieces of their own where they can be recognised.
        """
        borders = [0, *(border for span in example.spans for border in span), len(example.ids)]
        texts = self._texts(example.ids, borders)
        pieces: list[Piece] = []
        for number, text in enumerate(texts):
            if number % 2:
                pieces.append(Piece(text, trained=True))
            else:
                pieces += self._given(text, 2 if number else 0, trained=self._all)
        return PreviewDialogue(tuple(piece for piece in pieces if piece.text))

    def preference(self, example: EncodedPreference) -> PreviewPreference:
        """Decode a preference.

        Args:
            example: An example of the store.

        Returns:
            Its text, divided where the answers diverge.
        """
        start = len(example.prompt)
        alike = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*example.answers, strict=False)))
        parts = [self._texts(ids, [0, start, start + alike, len(ids)]) for ids in example.sequences]
        # a torn character ends the common text of one answer sooner than that of another
        shared = _common_start([part[1] for part in parts])
        return PreviewPreference(
            tuple(piece for piece in self._given(parts[0][0]) if piece.text),
            shared,
            tuple("".join(part[1:])[len(shared) :] for part in parts),
            tuple(example.order),
            tuple(example.margins),
            example.kind,
        )

    def _texts(self, ids: list[int], borders: Sequence[int]) -> list[str]:
        """Return the text between token positions, without torn characters."""
        whole, places = self._segmenter.text(ids), [0]
        for border in borders[1:-1]:
            # a torn character can make signs of a whole run of byte tokens: the text of some tokens less has the rest
            before = [self._segmenter.text(ids[: max(0, border - less)]) for less in range(_LONGEST_CHARACTER)]
            places.append(max(places[-1], *(len(_common_start([text, whole])) for text in before)))
        return [whole[start:end] for start, end in pairwise([*places, len(whole)])]

    def _given(self, text: str, piece: int = 0, trained: bool = False) -> list[Piece]:
        """Divide given text into the template's words and the contents of turns, if it matches the template."""
        most = 1 + (text.count(self._between) if self._between else 0)
        tried = [
            _EXCHANGE * number for number in {most: 0, max(1, most - 1): 0}
        ]  # a system turn may end like an answer
        for roles in [_EXCHANGE * 2] if piece else [start + roles for roles in tried for start in ((), _SYSTEM)]:
            pattern = self._pattern(roles, piece)
            if pattern is not None and (found := pattern.fullmatch(text)):
                return [Piece(part, trained, template=k % 2 == 0) for k, part in enumerate(found.groups())]
        return [Piece(text, trained)]

    def _pattern(self, roles: tuple[Role, ...], piece: int) -> re.Pattern[str] | None:
        """Return a pattern for the given text of a dialogue, from a piece on; words and contents alternate."""
        if (roles, piece) not in self._patterns:
            text = "".join(self._skeleton(roles)[piece:-1])
            groups = "(.*?)".join(f"({re.escape(words)})" for words in text.split(_MARK))
            self._patterns[roles, piece] = re.compile(groups, re.DOTALL) if text else None
        return self._patterns[roles, piece]

    def _skeleton(self, roles: tuple[Role, ...]) -> list[str]:
        """Return the pieces of a dialogue of marks; none if the template refuses these roles."""
        try:
            return self._segmenter.split([Turn(role, _MARK) for role in roles])[-1].pieces
        except RowProblem:
            return []


def choose_evenly(examples: Sequence[Item], count: int) -> list[tuple[int, Item]]:
    """Choose evenly spaced examples of a part, always the same.

    Args:
        examples: The examples of a part.
        count: The number to choose; all are chosen if there are fewer.

    Returns:
        The chosen examples, each with its index.
    """
    count = min(count, len(examples))
    return [(k * len(examples) // count, examples[k * len(examples) // count]) for k in range(count)]


def _common_start(texts: Sequence[str]) -> str:
    return "".join(chars[0] for chars in takewhile(lambda chars: len(set(chars)) == 1, zip(*texts, strict=False)))
