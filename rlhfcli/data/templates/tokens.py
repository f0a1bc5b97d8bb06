"""Tokenise pieces of text so that only a chat template writes special tokens.

A text may contain the letters of a special token, ``</s>`` or ``<|im_end|>``. Such a word is *shielded* before the
template writes it: a mark is put behind its first letter. So it differs from the template's own special tokens in
everything that the template makes of the text, and is tokenised as letters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from rlhfcli.data.dialogues.turns import RowProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ufdd0"  # a code point that Unicode keeps free for programs
_LONG, _REMEMBERED = 1 << 16, 8  # characters of a text that is worth remembering, and how many of them
_THOUGHT = re.compile(r"</?think(ing)?>")  # an assistant's text may hold these: data with reasoning is written so


class PieceTokenizer:
    """Tokenises pieces of a dialogue, each alone, so that a prompt's tokens stay when its answer follows.

    Args:
        tokenizer: Its special tokens must not change while this is in use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._continuing = None if self._backend is None else _without_prefix(self._backend)
        self._encode = None if self._backend is None else _Encode(self._backend)
        self._encode_later = None if self._continuing is None else _Encode(self._continuing)
        added = {str(token): (int(number), token.special) for number, token in tokenizer.added_tokens_decoder.items()}
        named = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in tokenizer.all_special_tokens}
        self.added = {name: number for name, (number, _) in added.items() if name.strip()} | named
        self.control = {name: number for name, (number, special) in added.items() if special} | named

    def add_control(self, names: Sequence[str]) -> None:
        """Treat more tokens as special: those with which the template ends an answer.

        Args:
            names: The texts of added tokens.
        """
        if any(name not in self.control for name in names):
            self.control |= {name: self.added[name] for name in names}
            vars(self).pop("_word", None)

    def shield(self, text: str, *, assistant: bool = False) -> str:
        """Mark the words in a turn's text that look like special tokens.

        Args:
            text: The content of the turn.
            assistant: Whether the turn is the assistant's, whose ``<think>`` is a special token.

        Returns:
            The text with marks; unchanged if there is nothing to mark.

        Raises:
            RowProblem: The text contains the mark itself.
        """
        if _MARK in text:
            raise RowProblem("the text holds U+FDD0, a code point that is no character")

        def mark(found: re.Match[str]) -> str:
            word = found[0]
            return word if assistant and _THOUGHT.fullmatch(word) else word[0] + _MARK + word[1:]

        return self._word.sub(mark, text)

    def tokenise(self, texts: Sequence[str], sizes: Sequence[int] | None = None) -> list[list[int]]:
        """Tokenise pieces that contain their special tokens already.

        Args:
            texts: The pieces of one text, or of several.
            sizes: The number of pieces of each text; left out, they all belong to one.

        Returns:
            The ids of each piece.

        Raises:
            RowProblem: Text cannot be written without a special token.
        """
        begins = set(accumulate([0, *(sizes or [len(texts)])[:-1]])) if texts else set()
        plain = [k for k, text in enumerate(texts) if _MARK not in text]
        first = {number for number, k in enumerate(plain) if k in begins}
        ids = dict(zip(plain, self._matched([texts[k] for k in plain], first), strict=True))
        return [ids[k] if k in ids else self._shielded(text, k in begins) for k, text in enumerate(texts)]

    def is_shielded(self, texts: Sequence[str]) -> bool:
        """Return whether a piece contains a mark; ``tokenise`` may refuse such pieces.

        Args:
            texts: The pieces.
        """
        return any(_MARK in text for text in texts)

    def unshielded(self, text: str) -> str:
        """Return a text without marks, as it was written.

        Args:
            text: The text.
        """
        return text.replace(_MARK, "")

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids, special tokens included.

        Args:
            ids: The token ids.
        """
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    # --- how ------------------------------------------------------------------------------------------------

    @cached_property
    def _word(self) -> re.Pattern[str]:
        """A pattern for any special token; the longest first, since one may begin another."""
        return re.compile("|".join(sorted(map(re.escape, self.control), key=len, reverse=True)) or r"(?!)")

    def _matched(self, texts: Sequence[str], begins: set[int]) -> list[list[int]]:
        """Tokenise pieces in which special tokens are recognised; those in ``begins`` are the first of their text."""
        if self._backend is None or self._encode is None:  # a tokenizer written in Python
            found = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
            return [list(ids) for ids in found]
        self._backend.no_truncation()
        self._backend.no_padding()
        ids = list((self._encode_later or self._encode)(list(texts)))
        if self._encode_later is not None:
            first = sorted(begins)
            for begin, found in zip(first, self._encode([texts[k] for k in first]), strict=True):
                ids[begin] = found
        return ids

    def _shielded(self, text: str, first: bool) -> list[int]:
        """Tokenise a text in which only the template's special tokens count as such."""
        ids: list[int] = []
        end = 0
        parts = []
        for found in self._word.finditer(text):
            parts += [text[end : found.start()], found[0]]
            end = found.end()
        for part in (*parts, text[end:]):
            if part and _MARK not in part:
                ids += self._matched([part], {0} if first and not ids else set())[0]
            elif part:
                ids += self._as_text(part.replace(_MARK, ""), first and not ids)
        return ids

    def _as_text(self, text: str, first: bool) -> list[int]:
        ids = self._unmatched(text, first)
        words = list(self._word.finditer(text))
        if not {self.control[found[0]] for found in words} & set(ids):
            return ids
        # the vocabulary itself holds the word as a whole: take it apart
        cuts = [0, *(found.start() + 1 for found in words), len(text)]
        ids = []
        for begin, end in pairwise(cuts):
            ids += self._unmatched(text[begin:end], first and not begin)
        unknown = self._tokenizer.unk_token_id
        if ({self.control[found[0]] for found in words} - {unknown}) & set(ids):
            raise RowProblem(f"this tokenizer cannot write {words[0][0]} as text: it is a special token of it")
        return ids

    def _unmatched(self, text: str, first: bool) -> list[int]:
        """Tokenise text in which no special token is recognised."""
        if self._plain is None:
            encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            return list(encoded["input_ids"])
        whole, continuing = self._plain
        return _encode(whole if first else continuing, [text])[0]

    @cached_property
    def _plain(self) -> tuple[Tokenizer, Tokenizer] | None:
        """The tokenizers for the first piece of a text and for later ones, without special tokens."""
        if self._backend is None:
            return None
        plain = []
        for backend in (self._backend, self._continuing or self._backend):
            settings = json.loads(backend.to_str())
            for token in settings["added_tokens"]:
                token["special"] = token["special"] or token["content"] in self.control
            plain.append(Tokenizer.from_str(json.dumps(settings)))
            plain[-1].encode_special_tokens = True
            plain[-1].no_truncation()
            plain[-1].no_padding()
        return plain[0], plain[1]


class _Encode:
    """Tokenises texts, and caches the last long ones: shortening one of 20 MB asks for its tokens ten times.

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


def _encode(backend: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _without_prefix(backend: Tokenizer) -> Tokenizer | None:
    """Return the tokenizer for later pieces of a text: SentencePiece puts a space only before the first.

    Returns:
        ``None`` if there is no such space, so that one tokenizer does for all pieces.
    """
    settings = json.loads(backend.to_str())
    before = json.dumps(settings)
    settings["normalizer"] = _no_prefix(settings["normalizer"])
    settings["pre_tokenizer"] = _no_prefix(settings["pre_tokenizer"])
    return None if json.dumps(settings) == before else Tokenizer.from_str(json.dumps(settings))


def _no_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer (or a sequence of them) that adds no space in front."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return step | {key: [kept for part in step[key] if (kept := _no_prefix(part)) is not None]}
    changes: dict[str, Any] = {"prepend_scheme": "never", "add_prefix_space": False}
    return step | {name: value for name, value in changes.items() if name in step and step[name] != "never"}
