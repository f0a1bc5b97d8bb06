"""A conversation with a model, without a terminal: history, streaming replies, the reward of each reply."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.chat.templates import with_template
from rlhfcli.chat.transcript import Record, Saved, append
from rlhfcli.core.generation.decode import Decoding, context_limit, end_ids_of, stream
from rlhfcli.core.generation.text_stream import Lead, TextStream, turn_stops
from rlhfcli.core.models.any_format import load_language_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import ChatSection
from rlhfcli.words import visible

_UNLIMITED = 1_000_000  # tokens of prompt for a model without a longest input


@dataclass(frozen=True)
class ChatOptions:
    """Settings of a chat beside its models.

    Args:
        decoding: How answers are drawn; the ``chat`` section of a recipe.
        template: Chat template for tokenizers that have none, as ``data.template`` names it.
        seed: Of the draws.
        saves: File for saved conversations.
        trusted: Names of the models whose own Python code may run.
        label: Which output is the reward, for a reward model that has several.
    """

    decoding: ChatSection = field(default_factory=ChatSection)
    template: str | None = None
    seed: int = 0
    saves: Path = Path("chats.jsonl")
    trusted: Collection[str] = ()
    label: str | None = None


class ChatSession:
    """A conversation with a language model.

        from rlhfcli import ChatSession

        chat = ChatSession.open("runs/tiny/sft/final", "runs/tiny/reward/final")
        print("".join(chat.reply("What does a dog say?")), chat.score())

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        settings: How tokens are chosen; every reply draws with a seed of its own.
        reward: Scores the replies.
        record: The file for saved conversations, and the names that are written beside them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Decoding,
        reward: RewardModel | None = None,
        record: Record | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.reward = reward
        self.record = record or Record(Path("chats.jsonl"), str(model.config.name_or_path))
        self.turns: list[Turn] = []
        self._rewards: dict[int, float] = {}
        self.forgotten = 0  # number of oldest turns that did not fit into the last prompt
        self.cut = False  # whether even the last turn lost its beginning
        self._replies = 0
        self._encoder = Encoder(tokenizer, self._prompt_limit())
        self._end_ids = end_ids_of(model, tokenizer)
        self._stops = turn_stops(tokenizer)
        self._lead = Lead(tokenizer)

    @classmethod
    def open(
        cls, model: str | Path, reward: str | Path | None = None, options: ChatOptions | None = None
    ) -> ChatSession:
        """Load the models of a chat.

        Args:
            model: Folder or hub name of a causal language model, or an adapter's folder.
            reward: Folder or hub name of a reward model, or an adapter's folder; ``None``: replies are not scored.
            options: Settings; left out, the defaults of a recipe.

        Returns:
            A new conversation.

        Raises:
            ModelError: A folder cannot be loaded, or one of the two is a model of the other kind.
        """
        options, model = options or ChatOptions(), str(model)
        scorer = None
        if reward is not None:  # first: an unusable folder is then found before the bigger model is loaded
            reward = str(reward)
            scorer = RewardModel.load(
                reward,
                label=options.label,
                template=options.template,
                trust_remote_code=reward in options.trusted,
            )
        chosen = options.decoding
        settings = Decoding(chosen.max_new_tokens, chosen.temperature, chosen.top_k, chosen.top_p, options.seed)
        trusted = model in options.trusted
        language = load_language_model(model, trust_remote_code=trusted)
        tokenizer = with_template(load_tokenizer(model, trust_remote_code=trusted), model, options.template)
        return cls(language, tokenizer, settings, scorer, Record(options.saves, model, reward))

    def reply(self, text: str) -> Generator[str, None, None]:
        """Send a message and stream the reply.

        Both turns are recorded when the iterator ends or is closed: what was written until then stays. A reply that is
        stopped before its first word leaves no trace.

        Args:
            text: The user's message.

        Yields:
            Pieces of the reply that can be shown at once; no white space at its beginning and end.

        Raises:
            DataError: The chat template refuses the conversation, or the message is not text.
        """
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            what = "this message is not UTF-8: it contains bytes that are not characters"
            raise DataError(what, where=visible(text[:60]), hint="Convert it: iconv -t UTF-8, or type it again.")
        turns = [*self.turns, Turn("user", text)]
        kept = self._encoder.fit(turns)
        ids = self._encoder.prompt(kept)
        self.forgotten, self.cut = len(turns) - len(kept), kept[-1] != turns[-1]
        settings = replace(self.settings, seed=self.settings.seed + self._replies)
        self._replies += 1
        answer, finished = "", False
        try:
            for piece in _stripped(self._lead.removed(self._pieces(ids, settings))):
                answer += piece
                yield piece
            finished = True
        finally:
            if answer or finished:
                self.turns = [*turns, Turn("assistant", answer)]

    def score(self) -> float | None:
        """Return the reward of the last reply; ``None`` without a reward model or before the first reply."""
        if self.reward is None or not self.turns:
            return None
        reward = self.reward.reward_of(self.turns)
        if reward is not None:
            self._rewards[len(self.turns) - 1] = reward
        return reward

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns = []
        self._rewards = {}
        self.forgotten = 0

    def save(self, file: Path | None = None) -> Saved | None:
        """Add the conversation to a file of dialogues, with the rewards that were shown.

        Args:
            file: The file; left out, that of the record.

        Returns:
            Where, and what was left out; ``None`` if nothing has been said yet.

        Raises:
            OSError: The file cannot be written.
            ValueError: The file contains something else.
        """
        return append(file or self.record.file, self.turns, self._rewards, self.record)

    @property
    def context(self) -> int | None:
        """Longest input of the model in tokens; ``None`` if there is no limit."""
        return context_limit(self.model)

    def _prompt_limit(self) -> int:
        """Return the tokens that the conversation so far may take; beyond that the oldest turns are left out."""
        limit = context_limit(self.model)
        return _UNLIMITED if limit is None else max(limit - self.settings.max_new_tokens, limit // 2)

    def _pieces(self, ids: list[int], settings: Decoding) -> Iterator[str]:
        text = TextStream(self.tokenizer, self._stops)
        for token in stream(self.model, ids, settings, self._end_ids):
            yield text.push(token)
            if text.stopped:
                return
        yield text.finish()


def _stripped(pieces: Iterable[str]) -> Iterator[str]:
    """Strip white space from the beginning and the end of a stream of text."""
    held, started = "", False
    for piece in pieces:
        text = held + piece if started else piece.lstrip()
        shown = text.rstrip()
        held = text[len(shown) :]
        if shown:
            started = True
            yield shown
