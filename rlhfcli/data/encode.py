"""Dialogues and preferences become token ids, and what is too long is shortened.

The three policies for what is longer than ``max_length``:

* ``drop_oldest_turns``: the answer stays whole. The oldest exchanges go first, at turn borders; a system turn
  stays. If the last exchange alone is too long, the user's text loses its beginning; only an answer that does
  not even fit alone loses its end. The two answers of a pair get the same prompt and the same room.
* ``keep_start``: everything behind ``max_length`` is cut off.
* ``drop``: such rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from rlhfcli.data.dialogue import Dialogue, Preference, Turn
from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.data.segments import Segmenter
from rlhfcli.data.turns import RowProblem
from rlhfcli.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Policy = Literal["drop_oldest_turns", "keep_start", "drop"]
Example = TypeVar("Example")
Ids = list[int]

_SMALLEST_PROMPT = 16  # a cut user turn keeps at least 1/16 of max_length: an answer to nothing teaches nothing


@dataclass(frozen=True)
class Outcome(Generic[Example]):
    """What became of a row.

    Args:
        example: Its tokens; ``None`` where it cannot be used.
        cut: Something was left out of it.
        reason: Why it cannot be used; empty where it can.
    """

    example: Example | None
    cut: bool = False
    reason: str = ""


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
        self._tokenizer = tokenizer
        self._segmenter = Segmenter(tokenizer)
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
        turns = [_up_to_last_answer(dialogue.turns) for dialogue in batch]
        encoded = self._encode([(each[:-1], [each[-1].content]) for each in turns])
        outcomes: list[Outcome[EncodedDialogue]] = []
        for dialogue, kept, parts in zip(batch, turns, encoded, strict=True):
            outcome = self._dialogue(kept, parts) if isinstance(parts, list) else Outcome(None, reason=parts)
            cut = outcome.cut or len(kept) < len(dialogue.turns)
            outcomes.append(Outcome(outcome.example, cut, outcome.reason))
        return outcomes

    def pairs(self, batch: Sequence[Preference]) -> list[Outcome[EncodedPair]]:
        """Encode preferences; pairs whose answers are the same after cutting are left out.

        Args:
            batch: Some hundreds at once are fastest.

        Returns:
            One outcome for each.

        Raises:
            DataError: The chat template cannot be used.
        """
        encoded = self._encode([(pair.prompt, [pair.chosen, pair.rejected]) for pair in batch])
        return [
            self._pair(pair, parts) if isinstance(parts, list) else Outcome(None, reason=parts)
            for pair, parts in zip(batch, encoded, strict=True)
        ]

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """Encode the conversation so far, up to where the answer begins.

        Args:
            turns: Ends with a turn that is not the assistant's.

        Returns:
            What ``EncodedPair.prompt`` is for the same turns; without the oldest ones if they do not fit.

        Raises:
            DataError: The chat template refuses these turns.
        """
        try:
            ids = _joined(self._prompt_parts(turns))
            if len(ids) > self._max_length:
                ids = _joined(self._prompt_parts(self._shorten(turns, self._max_length)))
        except RowProblem as problem:
            raise DataError(str(problem), where="the conversation") from None
        return ids[-self._max_length :]

    # --- tokens ---------------------------------------------------------------------------------------------

    def _tokens(self, texts: list[str]) -> list[Ids]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:  # a tokenizer written in Python
            return [list(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _encode(self, rows: Sequence[tuple[Sequence[Turn], list[str]]]) -> list[list[Ids] | str]:
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
        ids = iter(self._tokens([text for pieces in found if isinstance(pieces, list) for text in pieces]))
        return [[next(ids) for _ in each] if isinstance(each, list) else each for each in found]

    def _pieces(self, prompt: Sequence[Turn], answers: list[str]) -> list[str]:
        pieces = self._segmenter.split([*prompt, Turn("assistant", answers[0])])
        for answer in answers[1:]:
            pieces.append(self._segmenter.split([*prompt, Turn("assistant", answer)])[-1])
        return pieces

    def _prompt_parts(self, turns: Sequence[Turn]) -> list[Ids]:
        return self._tokens(self._segmenter.split_prompt(turns))

    # --- fitting into max_length ----------------------------------------------------------------------------

    def _dialogue(self, turns: Sequence[Turn], parts: list[Ids]) -> Outcome[EncodedDialogue]:
        """Put the pieces of a dialogue together; make it fit."""
        length = sum(map(len, parts))
        if length <= self._max_length:
            return Outcome(_with_spans(parts))
        if self._policy == "drop":
            return Outcome(None, reason=f"longer than {self._max_length} tokens")
        if self._policy == "drop_oldest_turns":
            prompt = self._shorten(turns[:-1], self._max_length - len(parts[-1]))
            parts = self._tokens(self._segmenter.split([*prompt, turns[-1]]))
        example = _with_spans(parts, self._max_length)
        if not example.spans:
            return Outcome(None, reason=f"nothing of the answer is left within {self._max_length} tokens")
        return Outcome(example, cut=True)

    def _pair(self, pair: Preference, parts: list[Ids]) -> Outcome[EncodedPair]:
        """Put the pieces of a pair together; make both branches fit, with the same prompt."""
        *given, chosen, rejected = parts
        longest = max(len(chosen), len(rejected))
        too_long = sum(map(len, given)) + longest > self._max_length
        if too_long and self._policy == "drop":
            return Outcome(None, reason=f"longer than {self._max_length} tokens")
        if too_long and self._policy == "drop_oldest_turns":
            prompt = self._shorten(pair.prompt, self._max_length - longest)
            *given, chosen, rejected = self._tokens(self._pieces(prompt, [pair.chosen, pair.rejected]))
        ids = _joined(given)
        room = self._max_length - len(ids)
        if room <= 0:
            return Outcome(None, reason=f"the prompt alone fills {self._max_length} tokens")
        if chosen[:room] == rejected[:room]:
            return Outcome(None, reason=f"chosen and rejected are the same{' after cutting' if too_long else ''}")
        example = EncodedPair(ids, chosen[:room], rejected[:room], pair.margin or 0.0, pair.kind or "")
        return Outcome(example, cut=too_long)

    def _shorten(self, turns: Sequence[Turn], room: int) -> list[Turn]:
        """Leave out the oldest exchanges, and at last the beginning of the user's text, until a prompt fits.

        Args:
            turns: The conversation so far.
            room: Tokens that its prompt should have at most; the smallest prompt may have more.

        Returns:
            The turns that are left.
        """
        head = [turn for turn in turns[:1] if turn.role == "system"]
        rest = list(turns[len(head) :])
        starts = [k for k, turn in enumerate(rest) if turn.role == "user"] or [0]
        lengths = [len(ids) for ids in self._tokens([turn.content for turn in turns])]
        while len(starts) > 1 and sum(lengths[: len(head)]) + sum(lengths[len(head) + starts[0] :]) > room:
            starts.pop(0)  # too long even without the template's words: not worth a try
        for start in starts:
            left = head + rest[start:]
            if self._prompt_length(left) <= room:
                return left
        return self._cut_user(head, rest[starts[-1] :], room)

    def _cut_user(self, head: list[Turn], exchange: list[Turn], room: int) -> list[Turn]:
        """Cut the beginning of the user's last text; if that is not enough, the system turn goes too."""
        user, *others = exchange
        ids = self._tokens([user.content])[0]
        least = min(len(ids), max(1, self._max_length // _SMALLEST_PROMPT))
        around = self._prompt_length([*head, *exchange]) - len(ids)
        if head and around + least > room:
            return self._cut_user([], exchange, room)
        keep = max(least, min(len(ids), room - around))
        while True:
            left = [*head, Turn(user.role, self._ending(ids, keep)), *others]
            excess = self._prompt_length(left) - room
            if excess <= 0 or keep <= least:
                return left
            keep = max(least, keep - excess)  # the cut text may have other merges, thus more tokens

    def _ending(self, ids: Ids, count: int) -> str:
        """The text of the last tokens, without a torn first character."""
        text: str = self._tokenizer.decode(ids[-count:], clean_up_tokenization_spaces=False)
        return text.lstrip("\ufffd") or text

    def _prompt_length(self, turns: Sequence[Turn]) -> int:
        return sum(map(len, self._prompt_parts(turns)))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], max_length: int) -> Ids:
    """Encode a conversation that a model is to answer; exactly what training saw as ``EncodedPair.prompt``.

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


def _up_to_last_answer(turns: Sequence[Turn]) -> Sequence[Turn]:
    return turns[: max(k for k, turn in enumerate(turns) if turn.role == "assistant") + 1]


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
