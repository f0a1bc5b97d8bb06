"""A trained reward model with its tokenizer: dialogues in, rewards out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhfcli.chat.templates import with_template
from rlhfcli.core.generation.score_position import Reader
from rlhfcli.core.models import any_format
from rlhfcli.core.models.reward_model import RewardModel as Network
from rlhfcli.core.models.tokenizers import reward_tokenizer
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.dialogues.message import read_turns
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.errors import DataError


@dataclass(frozen=True)
class RewardModel:
    """A reward model that scores dialogues, written with its own chat template and read where its maker reads them.

        from rlhfcli import RewardModel

        question = {"role": "user", "content": "What does a dog say?"}
        answers = ["A dog says woof.", "A dog says moo."]
        model = RewardModel.load("runs/tiny/reward/final")
        print(model.score([[question, {"role": "assistant", "content": answer}] for answer in answers]))

    Rewards only compare answers to the same prompt.

    Args:
        network: The backbone and its head, see ``core/models/reward_model.py``.
        tokenizer: The model's own, with a chat template.
    """

    network: Network
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        label: str | None = None,
        template: str | None = None,
        trust_remote_code: bool = False,
    ) -> RewardModel:
        """Load a reward model: ours, or one of transformers, TRL, OpenRLHF or DeepSpeed-Chat; also as an adapter.

        Args:
            name: Folder or hub name.
            label: Which output is the reward, where there are several.
            template: Chat template for a tokenizer that has none, as ``data.template`` names it.
            trust_remote_code: Run Python code that comes with the model.

        Raises:
            ModelError: It cannot be loaded, or it is no reward model.
        """
        place = os.fspath(name)
        network = any_format.load_reward_model(place, label=label, trust_remote_code=trust_remote_code)
        tokenizer = reward_tokenizer(place, trust_remote_code=trust_remote_code)
        return cls(network, with_template(tokenizer, place, template))

    def score(self, dialogues: Sequence[Sequence[Mapping[str, object]]]) -> list[float]:
        """Score the last answer of each dialogue; a reward does not depend on the other dialogues.

        Args:
            dialogues: Lists of messages with ``role`` and ``content``, the last one the assistant's. If a dialogue is
                longer than the model reads, its oldest turns are left out.

        Returns:
            One reward for each dialogue.

        Raises:
            DataError: A dialogue cannot be read, or the chat template cannot write it.
        """
        read = [self._read(messages, number) for number, messages in enumerate(dialogues, 1)]
        return self._rewards(read)

    def reward_of(self, turns: Sequence[Turn]) -> float | None:
        """Return the reward of the last turn, the assistant's; ``None`` if the template cannot write the dialogue.

        Args:
            turns: The dialogue.
        """
        return self.rewards_of([turns])[0]

    def rewards_of(self, dialogues: Sequence[Sequence[Turn]]) -> list[float | None]:
        """Return the reward of the last turn of each dialogue; ``None`` where the template cannot write it.

        Args:
            dialogues: Dialogues that end with a turn of the assistant.
        """
        read = [self._reader.read(turns) for turns in dialogues]
        rewards = iter(self._rewards([each for each in read if each is not None]))
        return [None if each is None else next(rewards) for each in read]

    @property
    def scale(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the rewards on validation data, where they are known."""
        mean, std = self.network.mean, self.network.std
        return (mean, std) if mean is not None and std else None

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.network, self.tokenizer)

    def _rewards(self, read: Sequence[tuple[list[int], int]]) -> list[float]:
        if not read:
            return []
        rewards: list[float] = self.network.rewards([ids for ids, _ in read], [start for _, start in read]).tolist()
        return rewards

    def _read(self, messages: Sequence[Mapping[str, object]], number: int) -> tuple[list[int], int]:
        where = f"dialogue {number}"
        try:
            turns = read_turns(messages, "messages")
        except RowProblem as problem:
            raise DataError(str(problem), where=where) from None
        if turns[-1].role != "assistant":
            raise DataError("its last message is not the assistant's: there is nothing to score", where=where)
        read = self._reader.read(turns)
        if read is None:
            raise DataError("the chat template of the reward model cannot write it", where=where)
        return read
