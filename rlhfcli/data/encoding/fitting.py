"""Make examples of tokenised dialogues and preferences, none of them longer than ``max_length``.

There are three policies for longer ones:

* ``drop_oldest_turns``: the answer stays whole. The oldest exchanges go first, at turn borders; a system turn
  stays. If the last exchange alone is too long, the user's text loses its beginning; only an answer that does
  not even fit alone loses its end. All answers to one prompt get the same prompt and the same room.
* ``keep_start``: everything behind ``max_length`` is cut off.
* ``drop``: such rows are filtered out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from rlhfcli.data.dialogues.dialogue import Preference, Turn, is_plain
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.encoding.shorten import Shortener
from rlhfcli.data.templates.segments import Segmenter, Segments

Policy = Literal["drop_oldest_turns", "keep_start", "drop"]
Encoded = TypeVar("Encoded")
Ids = list[int]
SAME_ANSWERS = "chosen and rejected are the same"


@dataclass(frozen=True)
class EncodingResult(Generic[Encoded]):
    """The result of encoding a row.

    Args:
        example: The encoded example, of a dialogue the one with the last answer; ``None`` if the row cannot be used.
        cut: Whether something was left out of it.
        reason: The reason why the row cannot be used; empty if it can.
        merged: Comparisons of a ranking that were left out, since shortening made their answers the same.
        earlier: Examples of a dialogue's earlier answers, if the template does not append.
        invalid: Whether something is wrong with the row; if not, the recipe filters it out.
    """

    example: Encoded | None
    cut: bool = False
    reason: str = ""
    merged: int = 0
    earlier: tuple[Encoded, ...] = ()
    invalid: bool = True


def too_long_reason(max_length: int) -> str:
    """Return the reason with which the policy ``drop`` filters a row out.

    Args:
        max_length: The longest example, in tokens.
    """
    return f"longer than {max_length} tokens"


class Fitter:
    """Joins tokenised pieces, and makes them fit.

    Args:
        segmenter: Splits shortened dialogues into pieces.
        max_length: The longest example, in tokens.
        policy: The treatment of longer ones.
    """

    def __init__(self, segmenter: Segmenter, max_length: int, policy: Policy) -> None:
        self._segmenter = segmenter
        self._shortener = Shortener(segmenter, max_length)
        self._max_length = max_length
        self._policy = policy

    def prompt(self, turns: Sequence[Turn], tools: str = "") -> Ids:
        """Return the tokens of a prompt, without its oldest turns if they do not fit.

        Args:
            turns: The conversation so far.
            tools: The tools that the assistant may call.

        Raises:
            RowProblem: The template refuses these turns.
        """
        ids = concatenate(self._segmenter.prompt_ids(self.fit(turns, tools), tools))
        return ids[-self._max_length :]

    def fit(self, turns: Sequence[Turn], tools: str = "") -> Sequence[Turn]:
        """Return the turns that ``prompt`` writes: all, or without the oldest ones if they do not fit.

        Args:
            turns: The conversation so far.
            tools: The tools that the assistant may call.

        Raises:
            RowProblem: The template refuses these turns.
        """
        if len(concatenate(self._segmenter.prompt_ids(turns, tools))) <= self._max_length:
            return turns
        return self._shortener.shorten(turns, self._max_length, tools)

    def dialogues(
        self, examples: Sequence[Segments], parts: Sequence[list[Ids]], tools: str
    ) -> EncodingResult[EncodedDialogue]:
        """Make the examples of one dialogue.

        Args:
            examples: The examples in order; the last one ends with the last answer.
            parts: The tokens of the pieces of each example.
            tools: The tools that the assistant may call.

        Raises:
            RowProblem: The template refuses a shortened example.
        """
        found = [self._dialogue(example, ids, tools) for example, ids in zip(examples, parts, strict=True)]
        lost = [outcome for outcome in found if outcome.example is None]
        if len(lost) == len(found) or (lost and self._policy == "drop"):
            return lost[-1]
        usable = [outcome.example for outcome in found if outcome.example is not None]
        cut = bool(lost) or any(outcome.cut for outcome in found)
        return EncodingResult(usable[-1], cut, earlier=tuple(usable[:-1]))

    def _dialogue(self, segments: Segments, parts: list[Ids], tools: str) -> EncodingResult[EncodedDialogue]:
        if sum(map(len, parts)) <= self._max_length:
            return EncodingResult(_with_spans(parts, segments.learnt))
        if self._policy == "drop":
            return EncodingResult(None, reason=too_long_reason(self._max_length), invalid=False)
        turns = segments.turns
        if self._policy == "drop_oldest_turns" and not is_plain(turns):
            prompt = self._shortener.shorten(turns[:-1], self._max_length - len(parts[-1]), tools)
            segments = self._segmenter.split([*prompt, turns[-1]], tools)[-1]
            parts = self._segmenter.tokenise(segments.pieces)
        example = _with_spans(parts, segments.learnt, self._max_length)
        if not example.spans:
            return EncodingResult(None, reason=f"nothing of the answer is left within {self._max_length} tokens")
        return EncodingResult(example, cut=True)

    def preference(self, preference: Preference, parts: list[Ids]) -> EncodingResult[EncodedPreference]:
        """Make the example of a preference; all branches fit, with the same prompt.

        Args:
            preference: The preference.
            parts: The tokens of the prompt's pieces, and of each answer.

        Raises:
            RowProblem: The template refuses the shortened prompt.
        """
        count = len(preference.answers)
        given, answers = parts[:-count], parts[-count:]
        longest = max(map(len, answers))
        cut = sum(map(len, given)) + longest > self._max_length
        if cut and self._policy == "drop":
            return EncodingResult(None, reason=too_long_reason(self._max_length), invalid=False)
        if cut and self._policy == "drop_oldest_turns":
            room = self._max_length - longest
            prompt = self._shortener.shorten(preference.prompt, room, preference.tools)
            shorter = replace(preference, prompt=tuple(prompt))
            parts = self._segmenter.tokenise(branches(self._segmenter, shorter)[1])
            given, answers = parts[:-count], parts[-count:]
        ids = concatenate(given)
        room = self._max_length - len(ids)
        if room <= 0:
            return EncodingResult(None, reason=f"the prompt alone fills {self._max_length} tokens")
        answers = [answer[:room] for answer in answers]
        margins = preference.margins or (0.0,) * len(preference.order)
        pairs = zip(preference.order, margins, strict=True)
        kept = [(pair, margin) for pair, margin in pairs if answers[pair[0]] != answers[pair[1]]]
        if not kept:
            return EncodingResult(None, reason=f"{SAME_ANSWERS}{' after cutting' if cut else ''}")
        order, weights = [pair for pair, _ in kept], [margin for _, margin in kept]
        example = EncodedPreference(ids, answers, order, weights, preference.kind or "")
        return EncodingResult(example, cut, merged=len(preference.order) - len(kept))


def branches(segmenter: Segmenter, preference: Preference) -> tuple[list[Segments], list[str]]:
    """Split a preference into pieces of text.

    Args:
        segmenter: Splits dialogues, with the chat template.
        preference: The preference.

    Returns:
        The examples of the dialogue that ends with the best answer; and the pieces of the last of these, followed by a
        piece for each other answer.

    Raises:
        RowProblem: The template refuses it.
    """
    best = segmenter.split([*preference.prompt, Turn("assistant", preference.answers[0])], preference.tools)
    pieces = list(best[-1].pieces)
    for answer in preference.answers[1:]:
        other = segmenter.split([*preference.prompt, Turn("assistant", answer)], preference.tools)[-1].pieces
        if "".join(other[:-1]) != "".join(best[-1].pieces[:-1]):
            raise RowProblem("the chat template writes the prompt otherwise for another answer")
        pieces.append(other[-1])
    return best, pieces


def concatenate(parts: Sequence[Ids]) -> Ids:
    """Return pieces as one sequence of tokens.

    Args:
        parts: The tokens of each piece.
    """
    return [token for part in parts for token in part]


def _with_spans(parts: Sequence[Ids], learnt: Sequence[bool], limit: int | None = None) -> EncodedDialogue:
    """Join pieces, of which every second one is an answer, and cut the result at ``limit`` tokens."""
    spans: list[tuple[int, int]] = []
    position = 0
    for k, part in enumerate(parts):
        if k % 2 and learnt[k // 2] and (limit is None or position < limit):
            spans.append((position, min(position + len(part), limit or position + len(part))))
        position += len(part)
    return EncodedDialogue(concatenate(parts)[:limit], spans)
