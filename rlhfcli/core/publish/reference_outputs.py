"""Reference outputs: examples, and the scores or logits that other programs must compute for them."""

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
_DIALOGUES = (
    ("Hello!", "Hello! How can I help you?"),
    ("What is two and two?", "Four."),
    ("Is the sky blue?", "Yes, on a clear day.", "And at night?", "No, it is dark then."),
)
_LONGEST = 48  # tokens of an example that is drawn at random
_BATCH = 8


@dataclass(frozen=True)
class ReferenceOutputs:
    """Examples, and the outputs that this program computes for them.

    Args:
        sequences: Token ids.
        values: ``(n,)`` scores at the last token, or ``(n, vocabulary)`` logits there.
        texts: The sequences as text, for programs that tokenise by themselves.
        text_scores: ``(n,)`` scores of the texts, tokenised again; empty for a language model.
        num_validation: Number of sequences that are validation data; the others are drawn at random.
        mean: The reward model's own reward is the mean over the answer.
        dialogues: Messages to score, for a reward model.
        dialogue_values: Their scores, at the token where this program reads them.
    """

    sequences: list[list[int]]
    values: Tensor
    texts: list[str]
    text_scores: Tensor
    num_validation: int
    mean: bool
    dialogues: tuple[Messages, ...] = ()
    dialogue_values: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def are_scores(self) -> bool:
        """Whether the values are scores of a reward model, not logits."""
        return self.values.dim() == 1

    @property
    def all_values(self) -> Tensor:
        """The values of the sequences, followed by those of the dialogues."""
        return torch.cat([self.values, self.dialogue_values]) if self.dialogues else self.values

    @property
    def about(self) -> str:
        """A description for the user of the outputs that are compared."""
        counts = {
            "of the validation data": self.num_validation,
            "drawn at random": len(self.sequences) - self.num_validation,
        }
        parts = [f"{count} {origin}" for origin, count in counts.items() if count]
        text = f"{'scores' if self.are_scores else 'logits'} at the last token of {' and '.join(parts)}"
        text += f", and of {len(self.dialogues)} dialogues as messages" if self.dialogues else ""
        return text + (": this model's reward is the mean over the answer, which only rlhf reads" if self.mean else "")


def draw_sequences(tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """Draw token ids at random, for models without prepared data.

    Args:
        tokenizer: The tokenizer of the model; its special tokens are not drawn.
        longest: Largest number of tokens that the model can read.

    Returns:
        ``EXAMPLES`` sequences, always the same ones.
    """
    rng = random.Random(EXAMPLES)
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    longest = max(2, min(_LONGEST, longest // 4))  # tokenised again, the text may be longer
    return [rng.choices(ids, k=rng.randint(2, longest)) for _ in range(EXAMPLES)]


def longest_of(config: Any) -> int:
    """Return the largest number of tokens that a model can read; a common number where its config sets no limit.

    Args:
        config: The transformers config of the model.
    """
    return context_length(config) or 2048


def reference(model: Any, tokenizer: PreTrainedTokenizerBase, data: Sequence[Sequence[int]] = ()) -> ReferenceOutputs:
    """Compute the reference outputs of a model.

    Args:
        model: A ``RewardModel``, or a transformers ``…ForCausalLM``.
        tokenizer: The tokenizer of the model.
        data: Token ids of validation examples, if there are any.

    Returns:
        ``EXAMPLES`` sequences with their outputs; of a reward model also some dialogues.
    """
    longest = longest_of(model.config)
    known = [list(ids) for ids in data if 0 < len(ids) <= longest and max(ids) < len(tokenizer)][:EXAMPLES]
    chosen = [*known, *draw_sequences(tokenizer, longest)][:EXAMPLES]
    texts = [tokenizer.decode(ids) for ids in chosen]
    ids = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
    text_scores = _compute(model, ids) if isinstance(model, RewardModel) else torch.empty(0)
    reference = ReferenceOutputs(
        chosen, _compute(model, chosen), texts, text_scores, len(known), _pools_mean(model.config)
    )
    return (
        _add_dialogues(reference, model, tokenizer) if reference.are_scores and tokenizer.chat_template else reference
    )


def _pools_mean(config: Any) -> bool:
    return bool((getattr(config, "rlhf", None) or {}).get("pooling") == "mean")


def _add_dialogues(
    reference: ReferenceOutputs, model: RewardModel, tokenizer: PreTrainedTokenizerBase
) -> ReferenceOutputs:
    """Add the dialogues that the chat template can express."""
    reader, roles = Reader(model, tokenizer), ("user", "assistant")
    kept: list[Messages] = []
    read: list[list[int]] = []
    for contents in _DIALOGUES:
        turns = [Turn(roles[number % 2], content) for number, content in enumerate(contents)]  # type: ignore[arg-type]
        try:
            found = reader.read(turns)
        except DataError:  # the template has no end token
            continue
        if found is not None and len(found[0]) <= longest_of(model.config):
            kept.append([{"role": turn.role, "content": turn.content} for turn in turns])
            read.append(found[0])
    return replace(reference, dialogues=tuple(kept), dialogue_values=_compute(model, read)) if kept else reference


@torch.no_grad()
def _compute(model: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
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
