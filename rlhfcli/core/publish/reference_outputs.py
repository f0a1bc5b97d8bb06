"""What other programs have to find when they load a model: examples, and what this program computes for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhfcli.core.families.config_checks import context_length, pad_of
from rlhfcli.core.generation.score_position import Reader
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing import layout
from rlhfcli.core.packing.strategy import choose_strategy, computing_with
from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.errors import DataError

EXAMPLES = 32
Messages = list[dict[str, str]]
DIALOGUES = (
    ("Hello!", "Hello! How can I help you?"),
    ("What is two and two?", "Four."),
    ("Is the sky blue?", "Yes, on a clear day.", "And at night?", "No, it is dark then."),
)
_LONGEST = 48  # of the examples that are drawn, where there are no others
_BATCH = 8


@dataclass(frozen=True)
class ReferenceOutputs:
    """Examples, and what this program computes for them.

    Args:
        sequences: Token ids.
        values: ``(n,)`` scores at the last token, or ``(n, vocabulary)`` logits there.
        texts: The same as text, for programs that tokenise by themselves.
        of_texts: The values of their token ids.
        of_data: How many of them are prepared data; the others are drawn.
        dialogues: Messages, as a user has them, for a reward model.
        of_dialogues: The values at the token where this program reads their scores.
        mean: The reward model is meant to be read by the mean over the answer.
    """

    sequences: list[list[int]]
    values: Tensor
    texts: list[str]
    text_scores: Tensor
    num_validation: int
    mean: bool
    dialogues: tuple[Messages, ...] = ()
    of_dialogues: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def scores(self) -> bool:
        """Whether they are a reward model's."""
        return self.values.dim() == 1

    @property
    def with_dialogues(self) -> Tensor:
        """The values of the sequences, and of the dialogues behind them."""
        return torch.cat([self.values, self.of_dialogues]) if self.dialogues else self.values

    @property
    def about(self) -> str:
        """What is compared, for people."""
        rest = len(self.sequences) - self.num_validation
        parts = [
            f"{count} {what}"
            for count, what in ((self.num_validation, "of the validation data"), (rest, "drawn at random"))
            if count
        ]
        text = f"{'scores' if self.scores else 'logits'} at the last token of {' and '.join(parts)}"
        text += f", and of {len(self.dialogues)} dialogues as messages" if self.dialogues else ""
        return text + (": this model's reward is the mean over the answer, which only rlhf reads" if self.mean else "")


def drawn(tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """Token ids to compare with, where there is no prepared data.

    Args:
        tokenizer: No special token is among them.
        longest: Tokens that the model can take.
    """
    rng = random.Random(EXAMPLES)
    words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    longest = max(2, min(_LONGEST, longest // 4))  # as text they may become more tokens
    return [rng.choices(words, k=rng.randint(2, longest)) for _ in range(EXAMPLES)]


def longest_of(config: Any) -> int:
    """How many tokens a model can take; a usual number where its config sets no limit."""
    return context_length(config) or 2048


def reference(model: Any, tokenizer: PreTrainedTokenizerBase, data: Sequence[Sequence[int]] = ()) -> ReferenceOutputs:
    """Compute what other programs have to find.

    Args:
        model: A ``RewardModel``, or a transformers ``…ForCausalLM``.
        tokenizer: Belongs to it.
        data: Token ids to compare with, if there are any.
    """
    longest = longest_of(model.config)
    known = [list(ids) for ids in data if 0 < len(ids) <= longest and max(ids) < len(tokenizer)][:EXAMPLES]
    chosen = [*known, *drawn(tokenizer, longest)][:EXAMPLES]
    texts = [tokenizer.decode(ids) for ids in chosen]
    ids = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
    text_scores = _computed(model, ids) if isinstance(model, RewardModel) else torch.empty(0)
    reference = ReferenceOutputs(
        chosen, _computed(model, chosen), texts, text_scores, len(known), _by_mean(model.config)
    )
    return _with_dialogues(reference, model, tokenizer) if reference.scores and tokenizer.chat_template else reference


def _by_mean(config: Any) -> bool:
    return bool((getattr(config, "rlhf", None) or {}).get("pooling") == "mean")


def _with_dialogues(
    reference: ReferenceOutputs, model: RewardModel, tokenizer: PreTrainedTokenizerBase
) -> ReferenceOutputs:
    """The same with those dialogues that the chat template can write."""
    reader, roles = Reader(model, tokenizer), ("user", "assistant")
    kept: list[Messages] = []
    read: list[list[int]] = []
    for contents in DIALOGUES:
        turns = [Turn(roles[number % 2], content) for number, content in enumerate(contents)]  # type: ignore[arg-type]
        try:
            found = reader.read(turns)
        except DataError:  # the template has no end token
            continue
        if found is not None and len(found[0]) <= longest_of(model.config):
            kept.append([{"role": turn.role, "content": turn.content} for turn in turns])
            read.append(found[0])
    return replace(reference, dialogues=tuple(kept), of_dialogues=_computed(model, read)) if kept else reference


@torch.no_grad()
def _computed(model: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    language = not isinstance(model, RewardModel)
    inner = model if language else model.model
    strategy = choose_strategy(inner, max(map(len, sequences), default=0))
    found: list[Tensor] = []
    with computing_with(inner, strategy):
        for begin in range(0, len(sequences), _BATCH):
            rows = sequences[begin : begin + _BATCH]
            batch = layout.lay_out(rows, packed=strategy.packed, pad_id=pad_of(inner.config))
            positions = batch.index[torch.arange(len(rows)), batch.lengths - 1].to(inner.device)
            read = (CausalLM(model) if language else model)(positions, **batch.to(inner.device).inputs())
            found.append(read.float().cpu())
    return torch.cat(found)
