"""Split a dialogue into alternating pieces of text: given text, an answer, given text, an answer ...

The pieces are tokenised separately and joined as tokens. So the tokens of a prompt are a prefix of the tokens of prompt
and answer by construction, in training and in use, whatever the tokenizer would merge across the border.

Many templates *append*: a turn is written in the same way whatever follows it, and an answer follows the generation
prompt. Their dialogues are one example with all answers. Others remove an answer's reasoning, or write its end
differently, once another turn follows, or begin the reasoning in the generation prompt. With these every answer is an
example of its own, written as in use: the turns before it, the generation prompt, the answer. An example that is the
beginning of another one is trained on within that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from rlhfcli.data.dialogues.dialogue import Turn, is_plain
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.templates.plain_text import plain_pieces
from rlhfcli.data.templates.reasoning import called_tools, split_reasoning, squeeze
from rlhfcli.data.templates.template import HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS, THOUGHT_BEGINS, trim
from rlhfcli.data.templates.tokens import PieceTokenizer
from rlhfcli.data.templates.words import EXCHANGE, TemplateWords, Words
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Written = Callable[[int], tuple[str, str] | None]  # from the index of an answer to its given text and its own
_OURS = (HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS)
_CHANGES = "the chat template changes the text of this dialogue"


@dataclass(frozen=True)
class Segments:
    """An example as pieces of text.

    Args:
        turns: The turns up to the last answer of the example; ``train`` marks the answers that it trains on.
        pieces: Given text and answers in turn, an even number; each answer ends with its end token.
        answers: The index of each answer among the turns.
    """

    turns: tuple[Turn, ...]
    pieces: list[str]
    answers: list[int]

    @property
    def learnt(self) -> list[bool]:
        """For each answer among the pieces, whether the example trains on it."""
        return [self.turns[k].train for k in self.answers]


class Segmenter:
    """Splits dialogues into pieces of text, with the tokenizer's chat template.

    Args:
        tokenizer: The tokenizer; its chat template must not change while this is in use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces = PieceTokenizer(tokenizer)
        self._words = TemplateWords(tokenizer, self._pieces)
        self._ours = tokenizer.chat_template in _OURS
        self.text = self._pieces.text
        self.tokenise = self._pieces.tokenise
        self.is_shielded = self._pieces.is_shielded

    def split(self, turns: Sequence[Turn], tools: str = "") -> list[Segments]:
        """Split a dialogue into its pieces.

        Args:
            turns: The turns; the last one is an answer.
            tools: The tools that the assistant may call.

        Returns:
            One example, or several if the template does not append; the last one ends with the last answer. Each answer
            to train on is trained on in one of them.

        Raises:
            RowProblem: The template refuses or changes this dialogue.
            DataError: The template cannot be used at all.
        """
        if is_plain(turns):
            return [Segments(tuple(turns), plain_pieces(self._tokenizer, turns[0].content), [0])]
        shielded, tools = self._with_calls(self._shielded(turns)), self._pieces.shield(tools)
        words = self._appended(shielded, tools)
        if words is not None:
            pieces = self._join(shielded, words)
            if self._ours or self._words.render(shielded, tools).startswith("".join(pieces)):
                return [Segments(tuple(turns), pieces, _answers(turns))]
        return self._one_by_one(turns, shielded, tools)

    def appends(self, turns: Sequence[Turn], tools: str = "") -> bool:
        """Return whether the template writes turns of these speakers in the same way whatever follows them.

        Args:
            turns: The turns.
            tools: The tools that the assistant may call.

        Raises:
            RowProblem: The template refuses them.
            DataError: The template cannot be used at all.
        """
        return is_plain(turns) or self._appended(self._with_calls(turns), self._pieces.shield(tools)) is not None

    def split_prompt(self, turns: Sequence[Turn], tools: str = "") -> list[str]:
        """Split turns that an answer is to follow.

        Args:
            turns: The conversation so far.
            tools: The tools that the assistant may call.

        Returns:
            An odd number of pieces; the last one ends where the answer begins.

        Raises:
            RowProblem: The template refuses these turns.
            DataError: The template cannot be used at all.
        """
        shielded, tools = self._with_calls(self._shielded(turns)), self._pieces.shield(tools)
        words = self._appended([*shielded, Turn("assistant", "-")], tools)
        whole = "" if self._ours else self._words.render(shielded, tools, generation_prompt=True)
        if words is not None:
            pieces = self._join([*shielded, Turn("assistant", "-")], words)[:-1]
            if self._ours or whole == "".join(pieces):
                return pieces
        return _split_text(whole, _answers(turns), self._writer(turns, shielded, tools))[0]

    def prompt_ids(self, turns: Sequence[Turn], tools: str = "") -> list[list[int]]:
        """Return the pieces of ``split_prompt`` as tokens.

        Args:
            turns: The conversation so far.
            tools: The tools that the assistant may call.
        """
        return self.tokenise(self.split_prompt(turns, tools))

    def content_ids(self, turns: Sequence[Turn]) -> list[list[int]]:
        """Return the contents of turns as tokens, without the template's words.

        Args:
            turns: The turns.
        """
        return self.tokenise([turn.content for turn in self._shielded(turns)])

    def end_token(self) -> int:
        """Return the id of the token that ends an answer, the last one of several.

        Raises:
            RowProblem: The template refuses a question with an answer.
            DataError: The template writes none.
        """
        number: int = self._pieces.added[self._words.last_end(self._words.closing(EXCHANGE)[0])]
        return number

    def lead(self) -> str:
        """Return the words between the generation prompt and an answer: an empty thought, a channel's name, a space.

        Raises:
            RowProblem: The template refuses a question with an answer.
            DataError: The template cannot be used at all.
        """
        _, said = self._written((Turn("user", "?"), Turn("assistant", "\ue000")), 1, "")
        return said.partition("\ue000")[0]

    def _shielded(self, turns: Sequence[Turn]) -> list[Turn]:
        return [self._shielded_turn(turn) for turn in turns]

    def _shielded_turn(self, turn: Turn) -> Turn:
        content = self._pieces.shield(turn.content, assistant=turn.role == "assistant")
        if content == turn.content and not turn.reasoning:
            return turn
        return replace(turn, content=content, reasoning=self._pieces.shield(turn.reasoning, assistant=True))

    def _with_calls(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return turns whose calls the template writes, if it can; if not, the calls stay in the content."""
        return [turn if not turn.calls else replace(turn, calls=self._calls_of(turn)) for turn in turns]

    def _calls_of(self, turn: Turn) -> str:
        return self._pieces.shield(turn.calls, assistant=True) if self.writes_calls else ""

    @cached_property
    def writes_calls(self) -> bool:
        """Whether the template writes calls of tools; if not, they are text in JSON."""
        mark = "tried_call"
        call = {"type": "function", "function": {"name": mark, "arguments": {"a": mark}}}
        turns = (Turn("user", "?"), Turn("assistant", mark, calls=json.dumps({"content": "", "tool_calls": [call]})))
        try:
            return not self._ours and self._written(turns, 1, "")[1].count(mark) > 1
        except (RowProblem, DataError):
            return False

    def _appended(self, turns: Sequence[Turn], tools: str) -> list[Words] | None:
        """Return the words of a template that appends; ``None`` for others, and for turns with reasoning or calls."""
        if self._ours:
            tools = ""
        elif any(turn.reasoning or turn.calls for turn in turns):
            return None
        return self._words.of(tuple(turn.role for turn in turns), tools)

    def _join(self, turns: Sequence[Turn], words: Sequence[Words]) -> list[str]:
        """Return the pieces of a dialogue for a template that appends."""
        pieces: list[str] = []
        given = ""
        for turn, around in zip(turns, words, strict=True):
            content = trim(turn.content) if self._ours else around.said(turn.content)
            if turn.role == "assistant":
                pieces += [given + around.before, around.lead + content + around.close]
                given = ""
            else:
                given += around.before + content
        return pieces

    # --- templates that do not append -----------------------------------------------------------------------

    def _one_by_one(self, turns: Sequence[Turn], shielded: Sequence[Turn], tools: str) -> list[Segments]:
        """Write each answer as in use; an answer within the beginning of another example needs none of its own."""
        written = self._writer(turns, shielded, tools)
        numbers = _answers(turns)
        wanted = {k for k in numbers if turns[k].train} or {numbers[-1]}
        examples: list[Segments] = []
        for last in reversed(numbers):
            found = written(last) if last in wanted else None
            if found is None:
                continue
            pieces, inside = _split_text("".join(found), numbers[: numbers.index(last) + 1], written)
            here = wanted & set(inside)
            wanted -= here
            own = tuple(replace(turn, train=turn.train and k in here) for k, turn in enumerate(turns[: last + 1]))
            examples.append(Segments(own, pieces[:-1], inside))
        return examples[::-1]

    def _writer(self, turns: Sequence[Turn], shielded: Sequence[Turn], tools: str) -> Written:
        """Return a function that writes an answer as in use; it returns ``None`` for an untrained one that fails."""

        @cache
        def written(k: int) -> tuple[str, str] | None:
            try:
                return self._written(shielded, k, tools)
            except RowProblem:
                if turns[k].train:
                    raise
                return None

        return written

    def _written(self, turns: Sequence[Turn], k: int, tools: str) -> tuple[str, str]:
        """Write answer ``k`` of shielded turns as in use: the text up to where generation begins, and the generated."""
        prompt = self._words.render(turns[:k], tools, generation_prompt=True)
        whole = self._words.render(turns[: k + 1], tools)
        close, tail = self._words.closing(tuple(turn.role for turn in turns[: k + 1]), tools)
        new = [turn for turn in turns[_answered(turns, k) : k] if turn.role in ("user", "system")]
        given = squeeze(prompt)
        if not whole.endswith(tail) or any(squeeze(turn.content) not in given for turn in new):
            raise RowProblem(_CHANGES)
        thought, answer = split_reasoning(turns[k])
        if whole.startswith(prompt):
            said = whole[len(prompt) : len(whole) - len(tail)]
            if any(name not in said for name in called_tools(turns[k])):
                raise RowProblem(_CHANGES)
            if any(squeeze(part) not in squeeze(said) for part in (answer, "" if turns[k].reasoning else thought)):
                raise RowProblem(_CHANGES)
        else:  # the generation prompt begins a thought, which the template leaves out of what was said
            begins = THOUGHT_BEGINS.search(prompt)
            if begins is None or not whole.startswith(prompt[: begins.start()]):
                raise RowProblem("the chat template does not write an answer behind its own generation prompt")
            said = f"{thought}\n</{begins[1]}>\n\n{answer}"
        return prompt, said + close


def _split_text(whole: str, answers: Sequence[int], written: Written) -> tuple[list[str], list[int]]:
    """Split a text into given pieces and answers in turn, and the rest; also return the indices of these answers.

    The last answers are tried first: where a text does not contain one as it was in use, earlier ones are changed too.
    """
    inside: list[int] = []
    borders = [len(whole)]
    for k in reversed(answers):
        found = written(k)
        if found is None or not whole.startswith("".join(found)) or len("".join(found)) > borders[0]:
            break
        inside.insert(0, k)
        borders[:0] = [len(found[0]), len("".join(found))]
    return [whole[begin:end] for begin, end in pairwise([0, *borders])], inside


def _answered(turns: Sequence[Turn], k: int) -> int:
    """Return the index of the first turn behind the answer before ``k``."""
    return next((number + 1 for number in range(k - 1, -1, -1) if turns[number].role == "assistant"), 0)


def _answers(turns: Sequence[Turn]) -> list[int]:
    return [k for k, turn in enumerate(turns) if turn.role == "assistant"]
