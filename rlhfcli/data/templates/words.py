"""Learn the words that a chat template writes around the turns of a dialogue, from the template itself.

A dialogue of the same roles, with marks for contents, is rendered once; the texts between the marks are the template's
words. To find where an answer begins in them, the turns before it are rendered with the generation prompt. That is done
once for answers between the same words behind the same speakers, so the time is linear in the length of a dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rlhfcli.data.dialogues.dialogue import Role, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.templates.template import render
from rlhfcli.data.templates.tokens import PieceTokenizer
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Roles = tuple[Role, ...]
EXCHANGE: Roles = ("user", "assistant")
_CONTEXT = 3  # speakers that decide how a template goes on
_KEPT = 20_000  # sequences of roles, and borders, that are remembered


@dataclass(frozen=True)
class Words:
    """The template's words around one turn.

    Args:
        before: The given text before the turn; for an assistant's turn it ends where generation begins.
        lead: The generated text before the content of an answer, a space or an empty thought; empty for other turns.
        close: The text behind an answer, up to and with its last end token; empty for other turns.
        keeps: Whether white space at the beginning and at the end of the content is kept.
    """

    before: str
    lead: str
    close: str
    keeps: tuple[bool, bool]

    def said(self, content: str) -> str:
        """Return a content as the template writes it.

        Args:
            content: The content of the turn.
        """
        content = content if self.keeps[0] else content.lstrip()
        return content if self.keeps[1] else content.rstrip()


class TemplateWords:
    """Learns and caches the words of a chat template.

    Args:
        tokenizer: The tokenizer; its chat template must not change while this is in use.
        pieces: Tokenises pieces; its special tokens are used here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pieces: PieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        names = sorted(map(re.escape, pieces.added), key=len, reverse=True)
        self._ends = re.compile(rf"\s*((?:{'|'.join(names) or '(?!)'})+)")
        self._one = re.compile("|".join(names) or r"(?!)")
        self._known: dict[tuple[Roles, str], list[Words] | None] = {}
        self._borders: dict[tuple[str, ...], tuple[str, str] | None] = {}
        self._closings: dict[tuple[Roles, str], tuple[str, str]] = {}

    def of(self, roles: Roles, tools: str = "") -> list[Words] | None:
        """Return the words around each turn.

        Args:
            roles: The speaker of each turn.
            tools: The tools that the assistant may call.

        Returns:
            The words; ``None`` if the template does not append: a turn is written differently once another one follows
            it, or an answer does not follow the generation prompt.

        Raises:
            RowProblem: The template refuses these roles, or leaves a turn out.
            DataError: The template writes no end token at all.
        """
        key = (roles, tools)
        if key not in self._known:
            _make_room(self._known)
            self._known[key] = self._learn(roles, tools)
        return self._known[key]

    def closing(self, roles: Roles, tools: str = "") -> tuple[str, str]:
        """Return the words behind the answer that ends a dialogue.

        Args:
            roles: The speaker of each turn; the last one is the assistant.
            tools: The tools that the assistant may call.

        Returns:
            The words up to and with the last end token, and all words.

        Raises:
            RowProblem: The template refuses these roles, or leaves the answer out.
            DataError: The template writes no end token at all.
        """
        key = (roles[-_CONTEXT:], tools)
        if key not in self._closings:
            _make_room(self._closings)
            tail = self._behind(roles, roles, tools)
            try:
                following = self._behind(roles, (*roles, "user"), tools)
            except RowProblem:  # two users in a row, say
                following = ""
            self._closings[key] = self._closing(tail, following), tail
        return self._closings[key]

    def render(self, turns: Sequence[Turn], tools: str = "", *, generation_prompt: bool = False) -> str:
        """Render turns.

        Args:
            turns: The turns.
            tools: The tools that the assistant may call.
            generation_prompt: Whether to append the generation prompt.

        Raises:
            RowProblem: The template refuses them.
        """
        try:
            return render(self._tokenizer, turns, generation_prompt, tools)
        except TemplateError as error:
            raise RowProblem(f"the chat template refuses this dialogue: {error}") from None

    # --- learning -------------------------------------------------------------------------------------------

    def _learn(self, roles: Roles, tools: str) -> list[Words] | None:
        gaps = self._gaps(roles, tools)
        if gaps is None:
            return None
        keeps = self._keeps(roles, tools, gaps)
        words: list[Words] = []
        rest = gaps[0]
        for k, role in enumerate(roles):
            before, lead, close = rest, "", ""
            rest = gaps[k + 1]
            if role == "assistant":
                key = (*roles[max(0, k - _CONTEXT) : k], str(k + 1 == len(roles)), gaps[k], gaps[k + 1], tools)
                if key not in self._borders:
                    _make_room(self._borders)
                    self._borders[key] = self._border(roles, k, gaps, tools)
                border = self._borders[key]
                if border is None:
                    return None
                lead, close = border
                before, rest = before[: len(before) - len(lead)], rest[len(close) :]
            words.append(Words(before, lead, close, keeps[k]))
        return words

    def _border(self, roles: Roles, k: int, gaps: list[str], tools: str) -> tuple[str, str] | None:
        """Return the words before and behind an answer's content, if the template appends it as it is generated."""
        prompt = self._gaps(roles[:k], tools, generation_prompt=True)
        alone = self._gaps(roles[: k + 1], tools)
        if prompt is None or alone is None or prompt[:k] != gaps[:k] or alone[: k + 1] != gaps[: k + 1]:
            return None
        close = self.closing(roles[: k + 1], tools)[0]
        if not gaps[k].startswith(prompt[k]) or not gaps[k + 1].startswith(close):
            return None
        return gaps[k][len(prompt[k]) :], close

    def _closing(self, tail: str, following: str) -> str:
        """Return the text behind an answer, up to and with its end token, of which there may be several.

        Args:
            tail: The text behind the last turn.
            following: The text behind the same turn if the user's follows; the common beginning belongs to the answer.
        """
        found = self._ends.match(_alike(tail, following)) or self._ends.match(tail)
        if found is None:
            if not self._ends.match(self._behind(EXCHANGE, EXCHANGE, "")):
                raise DataError(
                    f"the chat template writes no end token behind the assistant's turn, but {tail[:20]!r}",
                    where="data.template",
                    hint="Use data.template: human_assistant, or a .jinja file that writes {{ eos_token }}.",
                )
            raise RowProblem(f"the chat template writes no end token behind the answer, but {tail[:20]!r}")
        ends = self._one.findall(found[1])
        ids = self._tokenizer(ends[-1], add_special_tokens=False)["input_ids"]
        if ids != [self._pieces.added[ends[-1]]]:
            raise DataError(
                f"the end token {ends[-1]} is not one token but {len(ids)}",
                where="data.template",
                hint="Add it to the tokenizer's special tokens.",
            )
        self._pieces.add_control(ends)
        return found[0]

    def last_end(self, close: str) -> str:
        """Return the last end token of the words that end an answer.

        Args:
            close: These words, from ``closing``.
        """
        return str(self._one.findall(close)[-1])

    # --- marks ----------------------------------------------------------------------------------------------

    def _gaps(self, roles: Roles, tools: str, *, generation_prompt: bool = False) -> list[str] | None:
        """Return the text before, between and behind marks; ``None`` if they are not in order, each once."""
        text = self._marked(roles, tools, "", generation_prompt)
        found = re.findall("\ue000(\\d+)\ue001", text)
        if found != [str(k) for k in range(len(roles))]:
            missing = next((k for k in range(len(roles)) if str(k) not in found), None)
            if missing is None:
                return None
            raise RowProblem(f"the chat template leaves out turn {missing + 1} ({roles[missing]})")
        return re.split("\ue000\\d+\ue001", text)

    def _behind(self, answered: Roles, roles: Roles, tools: str) -> str:
        """Return the text between the last mark of ``answered`` and the next one in ``roles``."""
        number = len(answered) - 1
        _, found, behind = self._marked(roles, tools, "", False).rpartition(f"\ue000{number}\ue001")
        if not found:
            raise RowProblem(f"the chat template leaves out turn {number + 1} ({answered[-1]})")
        return behind.partition("\ue000")[0]

    def _keeps(self, roles: Roles, tools: str, bare: list[str]) -> list[tuple[bool, bool]]:
        """Return which contents keep a space at their beginning and at their end."""
        text = self._marked(roles, tools, " ", False)
        padded = re.split("\ue000\\d+\ue001", text)
        ends = [False] * (len(roles) + 1)  # of the turn before each gap
        begins = [False] * (len(roles) + 1)  # of the turn behind it
        for k, (with_spaces, without) in enumerate(zip(padded, bare, strict=True)):
            ends[k] = k > 0 and with_spaces in (f" {without}", f" {without} ")
            begins[k] = k < len(roles) and with_spaces == (f" {without} " if ends[k] else f"{without} ")
        return [(begins[k], ends[k + 1]) for k in range(len(roles))]

    def _marked(self, roles: Roles, tools: str, space: str, generation_prompt: bool) -> str:
        turns = [Turn(role, f"{space}\ue000{k}\ue001{space}") for k, role in enumerate(roles)]
        return self.render(turns, tools, generation_prompt=generation_prompt)


def _alike(one: str, other: str) -> str:
    """Return the common beginning of two texts."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= _KEPT:
        known.clear()
