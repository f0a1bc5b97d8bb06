"""Encode dialogues and preferences as token ids: tokenise their texts together, then make them fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from rlhfcli.data.dialogues.dialogue import Dialogue, Preference, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.encoding.fitting import SAME_ANSWERS, EncodingResult, Fitter, Ids, Policy, branches, too_long_reason
from rlhfcli.data.encoding.windows import windows
from rlhfcli.data.templates.segments import Segmenter, Segments
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SAME_ANSWERS", "Encoder", "EncodingResult", "answer_lead", "end_token", "too_long_reason"]
NOTHING_LEARNT = "no answer of this dialogue is to be learnt"
_MANY = 16  # turns from which on it is worth while to check first what can fit
Both = tuple[EncodingResult[EncodedDialogue] | None, EncodingResult[EncodedPreference] | None]


@dataclass
class _RowPieces:
    """The pieces of a row, as text and as tokens.

    Args:
        examples: The examples of the row for SFT.
        texts: The pieces of each example; for a preference the last list contains all answers.
        ids: The tokens of these pieces.
    """

    examples: list[Segments]
    texts: list[list[str]]
    ids: list[list[Ids]] = field(default_factory=list)


class Encoder:
    """Encodes dialogues and preferences.

    Args:
        tokenizer: The tokenizer, with its chat template.
        max_length: The longest example, in tokens.
        policy: The treatment of longer ones.
        last_only: Whether SFT trains only on the last answer of a dialogue.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        policy: Policy = "drop_oldest_turns",
        *,
        last_only: bool = False,
    ) -> None:
        self._segmenter = Segmenter(tokenizer)
        self._fitter = Fitter(self._segmenter, max_length, policy)
        self._last_only = last_only
        self._max_length = max_length
        self._shortens = policy == "drop_oldest_turns"

    def dialogues(self, batch: Sequence[Dialogue]) -> list[EncodingResult[EncodedDialogue]]:
        """Encode dialogues; turns behind the last answer are left out.

        Args:
            batch: The dialogues; some hundreds at once are fastest.

        Returns:
            A result for each dialogue.

        Raises:
            DataError: The chat template cannot be used.
        """
        return [sft for sft, _ in self.encode([(dialogue, True, False) for dialogue in batch]) if sft is not None]

    def preferences(self, batch: Sequence[Preference]) -> list[EncodingResult[EncodedPreference]]:
        """Encode preferences; comparisons of answers that are equal after shortening are left out.

        Args:
            batch: The preferences; some hundreds at once are fastest.

        Returns:
            A result for each preference.

        Raises:
            DataError: The chat template cannot be used.
        """
        wanted = [(preference, False, True) for preference in batch]
        return [reward for _, reward in self.encode(wanted) if reward is not None]

    def encode(self, batch: Sequence[tuple[Dialogue | Preference, bool, bool]]) -> list[Both]:
        """Encode examples for one phase or both; texts that both need are tokenised once.

        Args:
            batch: Examples, each with whether it is for SFT, and whether it is for the reward phase.

        Returns:
            For each example the results for SFT and for the reward phase; ``None`` for a phase that it is not for.

        Raises:
            DataError: The chat template cannot be used.
        """
        rows = self._rows([(example, reward) for example, _, reward in batch])
        both: list[Both] = []
        for (example, for_sft, for_reward), row in zip(batch, rows, strict=True):
            sft: EncodingResult[EncodedDialogue] | None = None
            reward: EncodingResult[EncodedPreference] | None = None
            if for_sft:
                sft = self._for_sft(example, row, others=for_reward)
            if for_reward and isinstance(example, Preference):
                reward = self._for_reward(example, row)
            both.append((sft, reward))
        return both

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """Encode a conversation that is to be answered, up to where the answer begins.

        Args:
            turns: The conversation; its last turn is not the assistant's.

        Returns:
            Token ids, equal to ``EncodedPreference.prompt`` of these turns; without the oldest ones if they do not fit.

        Raises:
            DataError: The chat template refuses these turns.
        """
        try:
            return self._fitter.prompt(turns)
        except RowProblem as problem:
            raise DataError(str(problem), where="the conversation") from None

    def fit(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """Return the turns that ``prompt`` encodes: all, or without the oldest ones if they do not fit.

        Args:
            turns: The conversation; its last turn is not the assistant's.

        Raises:
            DataError: The chat template refuses these turns.
        """
        try:
            return self._fitter.fit(turns)
        except RowProblem as problem:
            raise DataError(str(problem), where="the conversation") from None

    @property
    def writes_calls(self) -> bool:
        """Whether the chat template writes calls of tools; if not, they are text in JSON."""
        return self._segmenter.writes_calls

    # --- text, and tokens -----------------------------------------------------------------------------------

    def _rows(self, batch: Sequence[tuple[Dialogue | Preference, bool]]) -> list[_RowPieces | str]:
        """Split and tokenise examples, all texts at once; one that cannot be used becomes the reason.

        Args:
            batch: Examples, each with whether all of its answers are needed.
        """
        found: list[_RowPieces | str] = []
        for example, all_answers in batch:
            try:
                found.append(self._row(example, all_answers))
            except RowProblem as problem:
                found.append(str(problem))
        plain = [row for row in found if isinstance(row, _RowPieces) and not self._is_shielded(row)]
        texts = [text for row in plain for text in row.texts]
        ids = iter(self._segmenter.tokenise([*chain.from_iterable(texts)], list(map(len, texts))))
        for row in plain:
            row.ids = [[next(ids) for _ in text] for text in row.texts]
        return [self._shielded(row) if isinstance(row, _RowPieces) and not row.ids else row for row in found]

    def _row(self, example: Dialogue | Preference, all_answers: bool) -> _RowPieces:
        dialogue = example.preferred() if isinstance(example, Preference) else example
        turns = self._to_learn(dialogue.turns)
        if isinstance(example, Preference) and all_answers:
            examples, pieces = branches(self._segmenter, replace(example, prompt=turns[:-1]))
            return _RowPieces(examples, [*(each.pieces for each in examples[:-1]), pieces])
        examples = self._examples(turns, example.tools)
        return _RowPieces(examples, [each.pieces for each in examples])

    def _examples(self, turns: Sequence[Turn], tools: str) -> list[Segments]:
        """Split a dialogue; if every answer is an example of its own, without turns that cannot fit."""
        if self._shortens and len(turns) > _MANY and not self._segmenter.appends(turns, tools):
            lengths = list(map(len, self._segmenter.content_ids(turns)))
            if sum(lengths) > self._max_length:
                split, words = self._segmenter.split, self._least_words(turns, lengths)
                lengths = [length + words for length in lengths]
                return [split(window, tools)[-1] for window in windows(turns, lengths, self._max_length)]
        return self._segmenter.split(turns, tools)

    def _least_words(self, turns: Sequence[Turn], lengths: Sequence[int]) -> int:
        """Return a lower bound for the template's tokens of a turn: half of those that two more turns add, by turn."""
        roles = [turn.role for turn in turns]
        places = (k for k in range(len(turns) - 2) if roles[k : k + 3] == ["user", "assistant", "user"])
        k = next(places, None)
        if k is None:
            return 0
        try:
            one, three = (
                sum(map(len, self._segmenter.prompt_ids(turns[k:end]))) - sum(lengths[k:end]) for end in (k + 1, k + 3)
            )
        except RowProblem:  # without what stands before them the template refuses these turns
            return 0
        return max(0, (three - one) // 4)

    def _to_learn(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """Return the turns up to the last answer that is trained on; with ``last_only`` no other one is."""
        learnt = [k for k, turn in enumerate(turns) if turn.role == "assistant" and turn.train]
        if not learnt:
            raise RowProblem(NOTHING_LEARNT)
        if not self._last_only:
            return tuple(turns[: learnt[-1] + 1])
        return (*(replace(turn, train=False) for turn in turns[: learnt[-1]]), turns[learnt[-1]])

    def _is_shielded(self, row: _RowPieces) -> bool:
        return any(self._segmenter.is_shielded(text) for text in row.texts)

    def _shielded(self, row: _RowPieces) -> _RowPieces | str:
        """Tokenise a row whose text contains the letters of a special token."""
        try:
            row.ids = [self._segmenter.tokenise(text) for text in row.texts]
        except RowProblem as problem:
            return str(problem)
        return row

    # --- the example of each phase --------------------------------------------------------------------------

    def _for_sft(
        self, example: Dialogue | Preference, row: _RowPieces | str, *, others: bool
    ) -> EncodingResult[EncodedDialogue]:
        """Make the SFT example of a dialogue, or of the best answer of a preference."""
        if isinstance(row, str):
            if isinstance(example, Preference) and others:  # perhaps only another answer is invalid
                return self.dialogues([example.preferred()])[0]
            return EncodingResult(None, reason=row, invalid=row != NOTHING_LEARNT)
        last = row.examples[-1]
        ids = [*row.ids[:-1], row.ids[-1][: len(last.pieces)]]
        try:
            outcome = self._fitter.dialogues(row.examples, ids, example.tools)
        except RowProblem as problem:
            return EncodingResult(None, reason=str(problem))
        # a dialogue's end that is not learnt, or the beginning of a long one
        left_out = isinstance(example, Dialogue) and len(last.turns) < len(example.turns)
        return replace(outcome, cut=outcome.cut or left_out)

    def _for_reward(self, preference: Preference, row: _RowPieces | str) -> EncodingResult[EncodedPreference]:
        """Make the example of a preference, with all answers."""
        if isinstance(row, str):
            return EncodingResult(None, reason=row)
        try:
            return self._fitter.preference(preference, row.ids[-1])
        except RowProblem as problem:
            return EncodingResult(None, reason=str(problem))


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token with which the chat template ends an answer: often, not always, EOS.

    Args:
        tokenizer: The tokenizer, with its chat template.

    Raises:
        DataError: The template writes no end token, or refuses a question with an answer.
    """
    try:
        return Segmenter(tokenizer).end_token()
    except RowProblem as problem:
        raise DataError(str(problem), where="data.template") from None


def answer_lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template's words between the generation prompt and an answer, such as an empty thought.

    Args:
        tokenizer: The tokenizer, with its chat template.

    Returns:
        Text with its special tokens; empty if the template refuses a question with an answer.
    """
    try:
        return Segmenter(tokenizer).lead()
    except (RowProblem, DataError):
        return ""
