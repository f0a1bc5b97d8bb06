"""A conversation with a model, without a terminal: history, streaming replies, the reward of each reply."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.chat.transcript import Record, Saved, append
from rlhfcli.core.generation.decode import Decoding, context_limit, end_ids_of, stream
from rlhfcli.core.generation.score_position import Reader
from rlhfcli.core.generation.text_stream import Lead, TextStream, turn_stops
from rlhfcli.core.models.adapters import language_model, reward_model
from rlhfcli.core.models.loading import load_tokenizer
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.reward_tokenizers import reward_tokenizer
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.templates.template import check_speaks, set_template
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import ChatSection
from rlhfcli.words import visible

_ENDLESS = 1_000_000  # tokens of prompt for a model whose positions have no end


@dataclass(frozen=True)
class Judge:
    """A reward model that reads the conversation in its own words.

    Args:
        model: The reward model.
        tokenizer: Its own tokenizer and template, not the chat model's.
    """

    model: RewardModel
    tokenizer: PreTrainedTokenizerBase

    def score(self, turns: list[Turn]) -> float | None:
        """The reward of the last turn, the assistant's; None where its template cannot write the dialogue."""
        found = self._reader.read(turns)
        return None if found is None else float(self.model.rewards([found[0]], [found[1]])[0])

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.model, self.tokenizer)

    @property
    def scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the rewards on validation data, where they are known."""
        mean, std = self.model.mean, self.model.std
        return (mean, std) if mean is not None and std else None


class ChatSession:
    """A conversation.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        settings: How tokens are chosen; every reply draws with a seed of its own.
        reward: Scores the replies.
        record: What to write down beside a saved conversation, and where.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Decoding,
        reward: Judge | None = None,
        record: Record | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.reward = reward
        self.record = record or Record(Path("chats.jsonl"), str(model.config.name_or_path))
        self.turns: list[Turn] = []
        self._rewards: dict[int, float] = {}
        self.forgotten = 0  # the oldest turns that had no room in the last prompt ...
        self.cut = False  # ... and whether even its last turn lost its beginning
        self._replies = 0
        self._encoder = Encoder(tokenizer, self._prompt_room())
        self._ends = end_ids_of(model, tokenizer)
        self._stops = turn_stops(tokenizer)
        self._lead = Lead(tokenizer)

    def reply(self, text: str) -> Generator[str, None, None]:
        """Say something and listen.

        The turn is recorded when the iterator ends, or is closed: what was said until then stays. A reply
        that is broken off before its first word leaves no trace.

        Args:
            text: What the user says.

        Yields:
            Pieces of the reply that can be shown at once; no white space at its beginning and end.

        Raises:
            DataError: The chat template refuses the conversation, or the message is no text.
        """
        if any(0xD800 <= ord(sign) < 0xE000 for sign in text):
            what = "this message is not UTF-8: it holds bytes that are no characters"
            raise DataError(what, where=visible(text[:60]), hint="Convert it: iconv -t UTF-8, or type it again.")
        turns = [*self.turns, Turn("user", text)]
        kept = self._encoder.fit(turns)
        ids = self._encoder.prompt(kept)
        self.forgotten, self.cut = len(turns) - len(kept), kept[-1] != turns[-1]
        settings = replace(self.settings, seed=self.settings.seed + self._replies)
        self._replies += 1
        said, finished = "", False
        try:
            for piece in _without_edges(self._lead.removed(self._pieces(ids, settings))):
                said += piece
                yield piece
            finished = True
        finally:
            if said or finished:
                self.turns = [*turns, Turn("assistant", said)]

    def score(self) -> float | None:
        """The reward of the last reply; None without a reward model or before the first reply."""
        if self.reward is None or not self.turns:
            return None
        found = self.reward.score(self.turns)
        if found is not None:
            self._rewards[len(self.turns) - 1] = found
        return found

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns = []
        self._rewards = {}
        self.forgotten = 0

    def save(self, file: Path | None = None) -> Saved | None:
        """Add the conversation to a file of dialogues, with the rewards that were shown.

        Args:
            file: Where to; ``None``: where the record says.

        Returns:
            What was saved; ``None`` if nothing has been said yet.

        Raises:
            OSError: It cannot be written.
            ValueError: The file holds something else.
        """
        return append(file or self.record.file, self.turns, self._rewards, self.record)

    @property
    def context(self) -> int | None:
        """Tokens that the model reads at once; ``None`` where its positions have no end."""
        return context_limit(self.model)

    def _prompt_room(self) -> int:
        """Tokens that the conversation so far may take; beyond that the oldest turns are left out."""
        limit = context_limit(self.model)
        return _ENDLESS if limit is None else max(limit - self.settings.max_new_tokens, limit // 2)

    def _pieces(self, ids: list[int], settings: Decoding) -> Iterator[str]:
        text = TextStream(self.tokenizer, self._stops)
        for token in stream(self.model, ids, settings, self._ends):
            yield text.push(token)
            if text.stopped:
                return
        yield text.finish()


def open_session(
    model: str,
    reward: str | None,
    chat: ChatSection,
    *,
    template: str,
    seed: int = 0,
    saves: Path | None = None,
    trusted: Collection[str] = (),
    label: str | None = None,
) -> ChatSession:
    """Load what a chat needs.

    Args:
        model: Folder or hub name of a causal language model, or an adapter's folder.
        reward: Folder or hub name of a reward model, or an adapter's folder.
        chat: The recipe's chat section.
        template: For tokenizers that carry no chat template: base models.
        seed: Of the draws.
        saves: Where saved conversations go; ``None``: ``chats.jsonl`` in the working directory.
        trusted: Those of the folders whose own code may run.
        label: Which of a reward model's outputs counts, where it has several.

    Returns:
        A new conversation.

    Raises:
        ModelError: A folder cannot be loaded, the model is a reward model, or the reward model is none.
    """
    # The reward model first: a wrong folder is then found before the bigger model is loaded.
    judge = None
    if reward:
        scorer = reward_model(reward, label=label, trust_remote_code=reward in trusted)
        words = reward_tokenizer(reward, trust_remote_code=reward in trusted)
        judge = Judge(scorer, _speaker(reward, template, words))
    settings = Decoding(chat.max_new_tokens, chat.temperature, chat.top_k, chat.top_p, seed)
    record = Record(saves or Path("chats.jsonl"), model, reward)
    language = language_model(model, trust_remote_code=model in trusted)
    words = load_tokenizer(model, trust_remote_code=model in trusted)
    return ChatSession(language, _speaker(model, template, words), settings, judge, record)


def _speaker(name: str, template: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of ``name`` with the chat template it carries, else with ``template``."""
    if not tokenizer.chat_template:
        set_template(tokenizer, template)
    check_speaks(tokenizer, name)
    return tokenizer


def _without_edges(pieces: Iterable[str]) -> Iterator[str]:
    """Leave out white space at the beginning and the end of a stream of text."""
    held, begun = "", False
    for piece in pieces:
        text = held + piece if begun else piece.lstrip()
        shown = text.rstrip()
        held = text[len(shown) :]
        if shown:
            begun = True
            yield shown
