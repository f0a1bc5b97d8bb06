"""Dialogues and preferences become token ids, and what is too long is shortened.

The three policies for what is longer than ``max_length``:

* ``drop_oldest_turns``: the answer stays whole. The oldest exchanges go first, at turn borders; a system turn
  stays. If the last exchange alone is too long, the user's text loses its beginning; only an answer that does
  not even fit alone loses its end. All answers to one prompt get the same prompt and the same room.
* ``keep_start``: everything behind ``max_length`` is cut off.
* ``drop``: such rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from rlhfcli.data.dialogue import Dialogue, Preference, Turn, is_plain
from rlhfcli.data.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.segments import Segmenter
from rlhfcli.data.shorten import Shortener
from rlhfcli.data.turns import RowProblem
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Policy = Literal["drop_oldest_turns", "keep_start", "drop"]
Example = TypeVar("Example")
Ids = list[int]


@dataclass(frozen=True)
class Outcome(Generic[Example]):
    """What became of a row.

    Args:
        example: Its tokens; ``None`` where it cannot be used.
        cut: Something was left out of it.
        reason: Why it cannot be used; empty where it can.
        merged: Comparisons of a ranking that are left out, since cutting made their answers the same.
    """

    example: Example | None
    cut: bool = False
    reason: str = ""
    merged: int = 0


Both = tuple[Outcome[EncodedDialogue] | None, Outcome[EncodedPreference] | None]
SAME_ANSWERS = "chosen and rejected are the same"


def too_long(max_length: int) -> str:
    """Why the policy ``drop`` left a row out."""
    return f"longer than {max_length} tokens"


class Encoder:
    """Turns dialogues and preferences into tokens.

    Args:
        tokenizer: With a chat template.
        max_length: Tokens that an example may have.
        policy: What to do with longer ones.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, policy: Policy = "drop_oldest_turns"
    ) -> None:
        self._segmenter = Segmenter(tokenizer)
        self._shortener = Shortener(self._segmenter, max_length)
        self._max_length = max_length
        self._policy = policy

    def dialogues(self, batch: Sequence[Dialogue]) -> list[Outcome[EncodedDialogue]]:
        """Encode dialogues; what follows the last answer of one is left out.

        Args:
            batch: Some hundreds at once are fastest.

        Returns:
            One outcome for each.

        Raises:
            DataError: The chat template cannot be used.
        """
        return [sft for sft, _ in self.encode([(dialogue, True, False) for dialogue in batch]) if sft is not None]

    def preferences(self, batch: Sequence[Preference]) -> list[Outcome[EncodedPreference]]:
        """Encode preferences; comparisons of answers that are the same after cutting are left out.

        Args:
            batch: Some hundreds at once are fastest.

        Returns:
            One outcome for each.

        Raises:
            DataError: The chat template cannot be used.
        """
        wanted = [(preference, False, True) for preference in batch]
        return [reward for _, reward in self.encode(wanted) if reward is not None]

    def encode(self, batch: Sequence[tuple[Dialogue | Preference, bool, bool]]) -> list[Both]:
        """Encode examples for one phase or both; what both need is tokenised once.

        Args:
            batch: Examples, each with whether SFT and whether the reward phase wants it.

        Returns:
            For each what SFT and what the reward phase learns from it, ``None`` where it was not wanted.

        Raises:
            DataError: The chat template cannot be used.
        """
        rows = [_prompt_and_answers(example, reward) for example, _, reward in batch]
        both: list[Both] = []
        for (example, for_sft, for_reward), row, parts in zip(batch, rows, self._encode(rows), strict=True):
            sft: Outcome[EncodedDialogue] | None = None
            reward: Outcome[EncodedPreference] | None = None
            if for_sft and isinstance(parts, str) and len(row[1]) > 1:  # perhaps another answer is to blame
                sft = self.dialogues([example.preferred()])[0] if isinstance(example, Preference) else None
            elif for_sft:
                sft = Outcome(None, reason=parts) if isinstance(parts, str) else self._for_sft(example, row, parts)
            if for_reward and isinstance(example, Preference):
                reward = Outcome(None, reason=parts) if isinstance(parts, str) else self._preference(example, parts)
            both.append((sft, reward))
        return both

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """Encode the conversation so far, up to where the answer begins.

        Args:
            turns: Ends with a turn that is not the assistant's.

        Returns:
            What ``EncodedPreference.prompt`` is for the same turns; without the oldest ones if they do not fit.

        Raises:
            DataError: The chat template refuses these turns.
        """
        try:
            ids = _joined(self._segmenter.prompt_ids(turns))
            if len(ids) > self._max_length:
                ids = _joined(self._segmenter.prompt_ids(self._shortener.shorten(turns, self._max_length)))
        except RowProblem as problem:
            raise DataError(str(problem), where="the conversation") from None
        return ids[-self._max_length :]

    def fit(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns that ``prompt`` writes: all, or without the oldest ones if they do not fit.

        Args:
            turns: Ends with a turn that is not the assistant's.

        Raises:
            DataError: The chat template refuses these turns.
        """
        try:
            if len(_joined(self._segmenter.prompt_ids(turns))) <= self._max_length:
                return turns
            return self._shortener.shorten(turns, self._max_length)
        except RowProblem as problem:
            raise DataError(str(problem), where="the conversation") from None

    # --- tokens ---------------------------------------------------------------------------------------------

    def _encode(self, rows: Sequence[tuple[Sequence[Turn], Sequence[str]]]) -> list[list[Ids] | str]:
        """Tokenise prompts with their answers, all texts of all rows at once.

        Returns:
            For each row the ids of its pieces (given, said, given, ..., and one last piece for each answer),
            or the reason why it cannot be used.
        """
        found: list[list[str] | str] = []
        for prompt, answers in rows:
            try:
                found.append(self._pieces(prompt, answers))
            except RowProblem as problem:
                found.append(str(problem))
        usable = [pieces for pieces in found if isinstance(pieces, list)]
        ids = iter(self._segmenter.tokenise([text for pieces in usable for text in pieces], list(map(len, usable))))
        return [[next(ids) for _ in each] if isinstance(each, list) else each for each in found]

    def _pieces(self, prompt: Sequence[Turn], answers: Sequence[str]) -> list[str]:
        pieces = self._segmenter.split([*prompt, Turn("assistant", answers[0])])
        for answer in answers[1:]:
            pieces.append(self._segmenter.split([*prompt, Turn("assistant", answer)])[-1])
        return pieces

    # --- fitting into max_length ----------------------------------------------------------------------------

    def _for_sft(
        self, example: Dialogue | Preference, row: tuple[Sequence[Turn], Sequence[str]], parts: list[Ids]
    ) -> Outcome[EncodedDialogue]:
        """A dialogue, or the best answer of a preference."""
        prompt, answers = row
        last = len(parts) - len(answers)
        outcome = self._dialogue([*prompt, Turn("assistant", answers[0])], parts[: last + 1])
        left_out = isinstance(example, Dialogue) and len(prompt) + 1 < len(example.turns)
        return replace(outcome, cut=outcome.cut or left_out)

    def _dialogue(self, turns: Sequence[Turn], parts: list[Ids]) -> Outcome[EncodedDialogue]:
        """Put the pieces of a dialogue together; make it fit."""
        length = sum(map(len, parts))
        if length <= self._max_length:
            return Outcome(_with_spans(parts))
        if self._policy == "drop":
            return Outcome(None, reason=too_long(self._max_length))
        if self._policy == "drop_oldest_turns" and not is_plain(turns):
            prompt = self._shortener.shorten(turns[:-1], self._max_length - len(parts[-1]))
            parts = self._segmenter.tokenise(self._segmenter.split([*prompt, turns[-1]]))
        example = _with_spans(parts, self._max_length)
        if not example.spans:
            return Outcome(None, reason=f"nothing of the answer is left within {self._max_length} tokens")
        return Outcome(example, cut=True)

    def _preference(self, preference: Preference, parts: list[Ids]) -> Outcome[EncodedPreference]:
        """Put the pieces of a preference together; make all branches fit, with the same prompt."""
        count = len(preference.answers)
        given, answers = parts[:-count], parts[-count:]
        longest = max(map(len, answers))
        cut = sum(map(len, given)) + longest > self._max_length
        if cut and self._policy == "drop":
            return Outcome(None, reason=too_long(self._max_length))
        if cut and self._policy == "drop_oldest_turns":
            prompt = self._shortener.shorten(preference.prompt, self._max_length - longest)
            parts = self._segmenter.tokenise(self._pieces(prompt, preference.answers))
            given, answers = parts[:-count], parts[-count:]
        ids = _joined(given)
        room = self._max_length - len(ids)
        if room <= 0:
            return Outcome(None, reason=f"the prompt alone fills {self._max_length} tokens")
        answers = [answer[:room] for answer in answers]
        margins = preference.margins or (0.0,) * len(preference.order)
        pairs = zip(preference.order, margins, strict=True)
        kept = [(pair, margin) for pair, margin in pairs if answers[pair[0]] != answers[pair[1]]]
        if not kept:
            return Outcome(None, reason=f"{SAME_ANSWERS}{' after cutting' if cut else ''}")
        order, weights = [pair for pair, _ in kept], [margin for _, margin in kept]
        example = EncodedPreference(ids, answers, order, weights, preference.kind or "")
        return Outcome(example, cut, merged=len(preference.order) - len(kept))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], max_length: int) -> Ids:
    """Encode a conversation that a model is to answer; exactly what training saw as ``EncodedPreference.prompt``.

    Args:
        tokenizer: With a chat template.
        turns: Ends with a turn that is not the assistant's.
        max_length: Tokens; the oldest turns are left out if they do not fit.

    Returns:
        Ids up to where the answer begins.

    Raises:
        DataError: The chat template refuses these turns.
    """
    return Encoder(tokenizer, max_length).prompt(turns)


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id with which the tokenizer's chat template ends an answer: often, not always, its EOS.

    Args:
        tokenizer: With a chat template.

    Returns:
        A single id.

    Raises:
        DataError: The template writes no end token.
    """
    return Segmenter(tokenizer).end_token()


def _prompt_and_answers(example: Dialogue | Preference, all_answers: bool) -> tuple[Sequence[Turn], Sequence[str]]:
    """What is given before the last answer, and that answer; of a preference the best one or all."""
    if isinstance(example, Preference):
        return example.prompt, example.answers if all_answers else example.answers[:1]
    last = example.last_answer
    return example.turns[:last], (example.turns[last].content,)


def _joined(parts: Sequence[Ids]) -> Ids:
    return [token for part in parts for token in part]


def _with_spans(parts: Sequence[Ids], limit: int | None = None) -> EncodedDialogue:
    """Join pieces; every second one is the assistant's. Nothing behind ``limit`` is kept."""
    spans: list[tuple[int, int]] = []
    position = 0
    for k, part in enumerate(parts):
        if k % 2 and (limit is None or position < limit):
            spans.append((position, min(position + len(part), limit or position + len(part))))
        position += len(part)
    return EncodedDialogue(_joined(parts)[:limit], spans)
