"""Text from a stream of tokens, for people who read an answer while it is generated.

transformers has ``TextStreamer``, which prints whole words and does not cut at stop strings. Here the pieces are
values: together they are exactly the text of all tokens, cut at a stop string, so that a streamed answer equals the
same answer from a batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.dialogues.dialogue import Role, Turn
from rlhfcli.data.encoding.encode import answer_lead
from rlhfcli.data.templates.template import render

_THOUGHT_ENDS = "</think>"
_INCOMPLETE = "\ufffd"  # a tokenizer's text for bytes that are not a whole character (yet)


class TextStream:
    """Converts a stream of tokens to pieces of text that can be shown at once.

    The pieces together are ``tokenizer.decode(ids, skip_special_tokens=True)``, cut before the first stop string. No
    piece ends within a character, and the possible beginning of a stop string is held back.

    Args:
        tokenizer: The tokenizer of the model.
        stops: Texts that end the answer, such as the words that open the other speaker's turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._shown_ids = 0  # number of tokens that have been converted to text
        self._context = 0  # the first token that is decoded again, because spaces depend on the token before
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token.

        Args:
            token: The next token id.

        Returns:
            The text that can be shown now; often empty.
        """
        self._ids.append(token)
        known = self._decode(self._context, self._shown_ids)
        text = self._decode(self._context, len(self._ids))
        if text.endswith(_INCOMPLETE) or len(text) == len(known):
            return ""
        self._context, self._shown_ids = self._shown_ids, len(self._ids)
        return self._release(text[len(known) :])

    def finish(self) -> str:
        """Return the text that was held back, after the last token."""
        known = self._decode(self._context, self._shown_ids)
        text = self._decode(self._context, len(self._ids))
        self._context = self._shown_ids = len(self._ids)
        piece = self._release(text[len(known) :])
        rest, self._held = self._held, ""
        return piece + rest

    def _decode(self, first: int, last: int) -> str:
        text: str = self._tokenizer.decode(
            self._ids[first:last], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _release(self, piece: str) -> str:
        """Cut the text at a stop string, and hold back an end that may be the beginning of one."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Lead:
    """The text that a model generates before the words of an answer: a thought, an empty one, the name of a channel.

    Args:
        tokenizer: A tokenizer with a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._whole = answer_lead(tokenizer).strip()
        self._special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or r"(?!)")
        self._shown = self._special.sub("", self._whole).strip()

    @property
    def empty(self) -> bool:
        """Whether answers begin with their words."""
        return not self._whole

    def without(self, ids: Sequence[int]) -> str:
        """Return the words of an answer.

        Args:
            ids: All generated tokens.

        Returns:
            The text without special tokens and without thoughts.
        """
        whole: str = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        for mark in filter(None, (self._whole, _THOUGHT_ENDS)):
            if mark in whole:
                return self._special.sub("", whole.rpartition(mark)[2]).strip()
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def removed(self, pieces: Iterable[str]) -> Iterator[str]:
        """Remove an empty thought, or the name of a channel, from a stream; a thought with words stays.

        Args:
            pieces: Pieces of text, without special tokens.

        Yields:
            The other text, as early as possible.
        """
        held, begun = "", self.empty
        for piece in pieces:
            held += piece
            if not begun and self._shown.startswith(held.strip()):
                continue
            yield held if begun else held.lstrip().removeprefix(self._shown)
            held, begun = "", True
        if held and held.strip() != self._shown:
            yield held


def cut(text: str, stops: Sequence[str]) -> str:
    """Cut a text before the first stop string, and strip white space.

    Args:
        text: The text of an answer.
        stops: Texts that end an answer.
    """
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))].strip()


def turn_stops(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the words with which the template opens the user's next turn, such as ``Human:`` on a new line.

    A base model does not know the end token and continues with both sides of the dialogue; these words mark the end of
    its answer. A template that opens turns with special tokens needs none: they end the answer.

    Args:
        tokenizer: A tokenizer with a chat template.

    Returns:
        At most one stop string.
    """
    roles: tuple[Role, ...] = ("user", "assistant", "user")
    turns = [Turn(role, f"said{i}") for i, role in enumerate(roles)]
    try:
        text = render(tokenizer, turns, generation_prompt=False)
    except TemplateError:
        return ()
    between = text.partition("said1")[2].partition("said2")[0]
    between = between.lstrip(" ").removeprefix(tokenizer.eos_token or "")
    word = between.strip()
    if not word or any(token in between for token in tokenizer.all_special_tokens):
        return ()
    # One line break is enough: a base model does not always write the template's two.
    return ("\n" + word if "\n" in between else between.rstrip(),)
