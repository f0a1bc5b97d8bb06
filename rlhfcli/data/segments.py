"""A dialogue as alternating pieces of text: what is given, what the assistant says, what is given, ...

The pieces are tokenised apart and joined as tokens. So the tokens of a prompt are a prefix of the tokens of
prompt and answer by construction, in training and in use, whatever the tokenizer would merge across the
border.

Where the borders lie is learnt from the template itself: a dialogue of the same roles, whose contents are
placeholders, is written once, and what stands between the placeholders are the template's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from rlhfcli.data.dialogue import Role, Turn, is_plain
from rlhfcli.data.plain_text import plain_pieces
from rlhfcli.data.template import HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS, render
from rlhfcli.data.turns import RowProblem
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OURS = (HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS)
_LONG, _REMEMBERED = 1 << 16, 8  # characters of a text that is worth remembering, and how many of them
_REWRITES = "the chat template does not simply append turns"
_REWRITES_HINT = (
    "A prompt must stay as it is when its answer follows, or training and use would see different text. "
    "Use data.template: human_assistant, or a .jinja file that appends."
)


@dataclass(frozen=True)
class _Words:
    """The template's words around one turn.

    Args:
        before: Given text in front of it; for an assistant's turn it ends where generation begins.
        lead: The answer's own first characters, a space or a line break; empty for other turns.
        close: Behind an answer, up to and with its end token; empty for other turns.
        trim: The template strips white space around the content.
    """

    before: str
    lead: str
    close: str
    trim: bool


class Segmenter:
    """Splits dialogues into pieces of text, with the tokenizer's chat template.

    Args:
        tokenizer: With a chat template, which must not change while this is in use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = {str(token): int(token_id) for token_id, token in added.items() if token.special}
        # The longest first: one token may begin another.
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._any_special = re.compile("|".join(names) or r"(?!)")
        self._end = re.compile(rf"\s*({'|'.join(names) or '(?!)'})")
        self._ours = tokenizer.chat_template in _OURS
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        continuing = None if self._backend is None else _without_prefix(self._backend)
        self._encode = None if self._backend is None else _Encode(self._backend)
        self._encode_later = None if continuing is None else _Encode(continuing)
        self._known: dict[tuple[Role, ...], list[_Words]] = {}

    def split(self, turns: Sequence[Turn]) -> list[str]:
        """Split a dialogue into its pieces.

        Args:
            turns: Turns up to and with an answer; what follows the last answer is left out.

        Returns:
            Given text and answers in turn, an even number; each answer ends with its end token.

        Raises:
            RowProblem: The template refuses or changes this dialogue, or its text holds a special token.
            DataError: The template cannot be used at all.
        """
        if is_plain(turns):
            return plain_pieces(self._tokenizer, turns[0].content)
        for number, turn in enumerate(turns, 1):
            if found := self._any_special.search(turn.content):
                raise RowProblem(f"turn {number} ({turn.role}) holds the special token {found[0]}")
        pieces = self._join(turns)
        if not self._ours and not self._render(turns).startswith("".join(pieces)):
            raise RowProblem("the chat template changes the text of this dialogue")
        return pieces

    def split_prompt(self, turns: Sequence[Turn]) -> list[str]:
        """Split turns that an answer is to follow.

        Args:
            turns: The conversation so far.

        Returns:
            An odd number of pieces; the last one ends where the answer begins.

        Raises:
            RowProblem: The template refuses these turns.
            DataError: The template cannot be used at all.
        """
        return self._join([*turns, Turn("assistant", "-")])[:-1]

    def prompt_ids(self, turns: Sequence[Turn]) -> list[list[int]]:
        """The pieces of ``split_prompt`` as tokens."""
        return self.tokenise(self.split_prompt(turns))

    def tokenise(self, texts: list[str], sizes: Sequence[int] | None = None) -> list[list[int]]:
        """Token ids of pieces that hold their special tokens already.

        Args:
            texts: Pieces of one text, or of several.
            sizes: How many pieces each text has; one text if left out.

        Returns:
            The ids of each piece.
        """
        if self._backend is None or self._encode is None:  # a tokenizer written in Python
            return [list(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]
        self._backend.no_truncation()
        self._backend.no_padding()
        ids = list((self._encode_later or self._encode)(texts))
        if self._encode_later is not None:
            begins = list(accumulate([0, *(sizes or [len(texts)])[:-1]])) if texts else []
            for begin, first in zip(begins, self._encode([texts[k] for k in begins]), strict=True):
                ids[begin] = first
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def end_token(self) -> int:
        """The id of the token that ends an answer.

        Raises:
            DataError: The template writes none.
        """
        close = self._words(("user", "assistant"))[1].close
        return self._special[close.strip()]

    def _join(self, turns: Sequence[Turn]) -> list[str]:
        pieces: list[str] = []
        given = ""
        for turn, words in zip(turns, self._words(tuple(turn.role for turn in turns)), strict=True):
            content = turn.content.strip() if words.trim else turn.content
            if turn.role == "assistant":
                pieces += [given + words.before, words.lead + content + words.close]
                given = ""
            else:
                given += words.before + content
        return pieces

    def _words(self, roles: tuple[Role, ...]) -> list[_Words]:
        if roles not in self._known:
            self._known[roles] = self._learn(roles)
        return self._known[roles]

    def _learn(self, roles: tuple[Role, ...]) -> list[_Words]:
        """Find the template's words for a sequence of roles."""
        between, trims = self._skeleton(roles, generation_prompt=False)
        words: list[_Words] = []
        rest = between[0]
        for k, role in enumerate(roles):
            before, lead, close, after = rest, "", "", between[k + 1]
            if role == "assistant":
                prompt, _ = self._skeleton(roles[:k], generation_prompt=True)
                if prompt[:k] != between[:k] or not between[k].startswith(prompt[k]):
                    raise DataError(_REWRITES, where="data.template", hint=_REWRITES_HINT)
                lead = between[k][len(prompt[k]) :]
                if lead.strip():  # words such as an empty <think> block are given, not said
                    lead = ""
                before = rest[: len(rest) - len(lead)]
                close = self._closing(after)
                after = after[len(close) :]
            words.append(_Words(before, lead, close, trims[k]))
            rest = after
        return words

    def _closing(self, behind: str) -> str:
        """The text behind an answer, up to and with its end token, which must be a single id."""
        found = self._end.match(behind)
        if found is None:
            raise DataError(
                f"the chat template writes no end token behind the assistant's turn, but {behind[:20]!r}",
                where="data.template",
                hint="Use data.template: human_assistant, or a .jinja file that writes {{ eos_token }}.",
            )
        ids = self._tokenizer(found[1], add_special_tokens=False)["input_ids"]
        if ids != [self._special[found[1]]]:
            raise DataError(
                f"the end token {found[1]} is not one token but {len(ids)}",
                where="data.template",
                hint="Add it to the tokenizer's special tokens.",
            )
        return found[0]

    def _skeleton(self, roles: tuple[Role, ...], *, generation_prompt: bool) -> tuple[list[str], list[bool]]:
        """Write placeholders; return the words between them, and which of them were stripped."""
        marks = [f"\ue000{k}\ue001" for k in range(len(roles))]
        turns = [Turn(role, f" {mark} ") for role, mark in zip(roles, marks, strict=True)]
        whole = text = self._render(turns, generation_prompt)
        between: list[str] = []
        trims: list[bool] = []
        for k, mark in enumerate(marks):
            before, found, behind = text.partition(mark)
            if mark not in whole:
                raise RowProblem(f"the chat template leaves out turn {k + 1} ({roles[k]})")
            if not found:
                raise DataError(_REWRITES, where="data.template", hint=_REWRITES_HINT)
            kept = before.endswith(" ") and behind.startswith(" ")
            # A template's own space may stand there as well: only one on both sides is the placeholder's.
            trims.append(not (kept and self._keeps_space(turns, k, generation_prompt)))
            between.append(before if trims[-1] else before[:-1])
            text = behind if trims[-1] else behind[1:]
        return [*between, text], trims

    def _keeps_space(self, turns: list[Turn], k: int, generation_prompt: bool) -> bool:
        """Whether the text changes when the white space around a content goes."""
        bare = [*turns[:k], Turn(turns[k].role, turns[k].content.strip()), *turns[k + 1 :]]
        return self._render(bare, generation_prompt) != self._render(turns, generation_prompt)

    def _render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> str:
        try:
            return render(self._tokenizer, turns, generation_prompt)
        except TemplateError as error:
            raise RowProblem(f"the chat template refuses this dialogue: {error}") from None


class _Encode:
    """Tokenises texts, and remembers the last long ones: cutting one of 20 MB asks for its tokens ten times.

    Args:
        backend: The tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._long: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> list[list[int]]:
        known = [self._long.get(text) if len(text) >= _LONG else None for text in texts]
        new = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        found = iter([encoding.ids for encoding in self._backend.encode_batch_fast(new, add_special_tokens=False)])
        both = [next(found) if ids is None else ids for ids in known]
        for text, ids in zip(texts, both, strict=True):
            if len(text) >= _LONG:
                self._long[text] = ids
        for oldest in list(self._long)[:-_REMEMBERED]:
            del self._long[oldest]
        return both


def _without_prefix(backend: Tokenizer) -> Tokenizer | None:
    """The same tokenizer for a piece in the middle of a text: SentencePiece's put a space in front of every text.

    Returns:
        ``None`` where there is no such space, so that one tokenizer does for all pieces.
    """
    settings = json.loads(backend.to_str())
    before = json.dumps(settings)
    settings["normalizer"] = _no_prefix(settings["normalizer"])
    settings["pre_tokenizer"] = _no_prefix(settings["pre_tokenizer"])
    return None if json.dumps(settings) == before else Tokenizer.from_str(json.dumps(settings))


def _no_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer (or a sequence of them) that adds no space in front."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return step | {key: [kept for part in step[key] if (kept := _no_prefix(part)) is not None]}
    changes: dict[str, Any] = {"prepend_scheme": "never", "add_prefix_space": False}
    return step | {name: value for name, value in changes.items() if name in step and step[name] != "never"}
