"""From tokens to text that people can read while it is being written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.dialogues.dialogue import Role, Turn
from rlhfcli.data.encoding.encode import answer_lead
from rlhfcli.data.templates.template import render

_THOUGHT_ENDS = "</think>"
_UNFINISHED = "\ufffd"  # what a tokenizer writes for bytes that are no whole character (yet)


class TextStream:
    """Turns a stream of tokens into pieces of text that can be shown at once.

    Put together, the pieces are ``tokenizer.decode(ids, skip_special_tokens=True)``, cut before the first
    stop string. No piece ends within a character, and what may become a stop string is held back.

    Args:
        tokenizer: The model's.
        stops: Texts that end the answer, such as the words that open the other speaker's turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._shown_ids = 0  # tokens before this have been turned into text ...
        self._context = 0  # ... and from here on they are decoded again: spaces need their left side
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token; return the text that can be shown now (often none)."""
        self._ids.append(token)
        known = self._decode(self._context, self._shown_ids)
        text = self._decode(self._context, len(self._ids))
        if text.endswith(_UNFINISHED) or len(text) == len(known):
            return ""
        self._context, self._shown_ids = self._shown_ids, len(self._ids)
        return self._release(text[len(known) :])

    def finish(self) -> str:
        """No more tokens will come; return the text that was held back."""
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
        """Cut at a stop string, and hold back an end that may be the beginning of one."""
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
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Lead:
    """What a model generates before the words of an answer: a thought, an empty one, the name of a channel.

    Args:
        tokenizer: With a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._whole = answer_lead(tokenizer).strip()
        self._special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or r"(?!)")
        self._shown = self._special.sub("", self._whole).strip()

    @property
    def empty(self) -> bool:
        """Whether the first token of an answer is the first of its words."""
        return not self._whole

    def without(self, ids: Sequence[int]) -> str:
        """The words of an answer.

        Args:
            ids: All that was generated.

        Returns:
            Its text without special tokens, and without what was thought.
        """
        whole: str = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        for mark in filter(None, (self._whole, _THOUGHT_ENDS)):
            if mark in whole:
                return self._special.sub("", whole.rpartition(mark)[2]).strip()
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def removed(self, pieces: Iterable[str]) -> Iterator[str]:
        """Leave an empty thought or the name of a channel out of a stream; a thought that says something stays.

        Args:
            pieces: Of text without special tokens.

        Yields:
            The rest as soon as it is known.
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
    """The text before the first stop string, without white space around it."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))].strip()


def turn_stops(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The words with which the template opens the user's next turn, such as ``Human:`` on a new line.

    A base model does not know the end token and goes on to write both sides of the dialogue; these words say
    where its answer ends. A template that opens turns with special tokens needs none: they end the answer.

    Args:
        tokenizer: With a chat template.

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
