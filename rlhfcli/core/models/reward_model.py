"""The reward model: a language model whose last layer scores an answer instead of predicting the next token.

Take a causal language model, leave out the layer that predicts the next token, and put one linear map from the hidden
state to a single number in its place (the *head*, ``score``). Because attention is causal, the hidden state at a token
has seen everything up to it; at the end token of an answer it has seen the whole dialogue. The number read there is the
*reward* of that answer. Its zero and its unit mean nothing: training only ever looks at the difference between two
answers to the same prompt (see ``losses.bradley_terry``).

Three ways to make one number of an answer (``reward.pooling``):

* ``last``: the score at the end token. What transformers, TRL, RewardBench and vLLM read, and our default.
* ``mean``: the mean of the scores of the answer's tokens.
* ``tokenwise``: DeepSpeed-Chat's: train on all tokens from where the two answers begin to differ, read the last.

The head and all that follows are computed in float32, whatever the precision of the backbone: scores of bf16 lie so far
apart that close answers tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from rlhfcli.core.families.backbone import backbone_of
from rlhfcli.core.families.config_checks import pad_of
from rlhfcli.core.families.embeddings import check_ids
from rlhfcli.core.families.rotary import length_dependence
from rlhfcli.core.hardware import computes_bf16
from rlhfcli.core.losses import mean_by_segment
from rlhfcli.core.models.sequence_classifier import load_for_scoring, set_one_output
from rlhfcli.core.packing import layout
from rlhfcli.core.packing.last_layer import needed_tokens
from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.core.packing.strategy import Strategy, choose_strategy, computing_with
from rlhfcli.core.parallel.zero3 import gathered
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection

SCORING_TOKENS = 8192  # tokens of a batch when scoring; bounds the memory, does not change the scores


class RewardModel(nn.Module):
    """A backbone and its float32 head.

    Args:
        model: A transformers ``…ForSequenceClassification`` with one output and a linear head called ``score``.
        bf16: Compute the backbone in bfloat16.
        head: A description of where the head comes from.
    """

    def __init__(self, model: PreTrainedModel, *, bf16: bool = False, head: str = "") -> None:
        super().__init__()
        if not isinstance(getattr(model, "score", None), nn.Linear):
            raise ModelError(
                f"{type(model).__name__} has no linear head called score, which reward models need",
                hint="Take a decoder family: OPT, Llama, Qwen, Mistral, Gemma, GPT-NeoX, GPT-2, BLOOM ...",
            )
        self.model = model
        self.bf16 = bf16
        self.head = head
        self.score.requires_grad_(True)

    @property
    def score(self) -> nn.Linear:
        """The head: ``(1, hidden)``, without bias."""
        head: nn.Linear = self.model.score
        return head

    @property
    def config(self) -> Any:
        """The transformers config; it holds the pooling and the statistics of the rewards, too."""
        return self.model.config

    def init_head(self) -> None:
        """Draw a new head from N(0, 1 / (hidden + 1)), so that first scores are about one (arXiv 2009.01325)."""
        with gathered([self.score.weight]):
            nn.init.normal_(self.score.weight, std=1 / math.sqrt(self.score.in_features + 1))

    def forward(self, positions: Tensor, unique_positions: Tensor | None = None, **inputs: Any) -> Tensor:
        """Compute the scores of chosen tokens.

        Args:
            positions: ``(n,)`` indices into the flattened batch.
            unique_positions: ``(at most n,)`` the same indices, each once; without them the last layer is not pruned.
            inputs: Keyword arguments of the transformers model (see ``Layout.inputs``).

        Returns:
            ``(n,)`` scores, float32.
        """
        backbone = backbone_of(self.model)
        kind = positions.device.type
        autocast = torch.autocast(kind, dtype=torch.bfloat16, enabled=self.bf16)
        with autocast, needed_tokens(self.model, unique_positions, inputs["input_ids"].numel()):
            hidden = backbone(**inputs).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, positions)
        with torch.autocast(kind, enabled=False):
            return nn.functional.linear(chosen.float(), self.score.weight.float()).squeeze(-1)

    def _strategy(self, longest: int) -> Strategy:
        """Choose how the model computes: tried once, and not again for every answer of a chat."""
        if length_dependence(self.model, longest):
            return choose_strategy(self.model, longest)
        return self._strategy_for_short

    @cached_property
    def _strategy_for_short(self) -> Strategy:
        return choose_strategy(self.model)

    @torch.no_grad()
    def rewards(self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int] | None = None) -> Tensor:
        """Compute the reward of each dialogue, with the pooling that the model was trained with.

        Args:
            sequences: Token ids, each ending with the end token of the answer.
            prompt_lengths: Where each answer begins; needed for a model with ``mean`` pooling.

        Returns:
            ``(sequences,)`` rewards, float32, on the CPU; independent of how they are batched.

        Raises:
            ValueError: The pooling is ``mean``, and there are no prompt lengths.
        """
        pooling = (getattr(self.config, "rlhf", None) or {}).get("pooling", "last")
        if pooling == "mean" and prompt_lengths is None:
            raise ValueError("a reward model with mean pooling needs the prompt lengths")
        check_ids(self.model, sequences)
        strategy = self._strategy(max(map(len, sequences), default=0))
        sizes = MicroBatches(((sequence, [[]]) for sequence in sequences), packed=strategy.packed)
        result = torch.empty(len(sequences))
        with computing_with(self.model, strategy):
            for rows in sizes.cut(range(len(sequences)), strategy.row_budget(SCORING_TOKENS)):
                first = [prompt_lengths[i] for i in rows] if prompt_lengths and pooling == "mean" else None
                result[rows] = self._rewards([sequences[i] for i in rows], first, strategy.packed)
        return result

    def _rewards(self, sequences: list[Sequence[int]], first: list[int] | None, packed: bool) -> Tensor:
        batch = layout.lay_out(sequences, packed=packed, pad_id=pad_of(self.config))
        places, segments = layout.spans(batch.lengths - 1 if first is None else torch.tensor(first), batch.lengths)
        positions, device = batch.index[segments, places], self.score.weight.device
        scores = self(positions.to(device), torch.unique(positions).to(device), **batch.to(device).inputs())
        return mean_by_segment(scores, segments.to(device), len(sequences)).cpu()

    @property
    def mean(self) -> float | None:
        """Mean reward of the validation answers, if it was measured."""
        return getattr(self.config, "mean", None)

    @property
    def std(self) -> float | None:
        """Standard deviation of the rewards of the validation answers, if it was measured."""
        return getattr(self.config, "std", None)


def as_reward_model(config: Any, pooling: str, rewards: tuple[float, float]) -> None:
    """Write into a config the fields that clients of a reward model look for.

    Args:
        config: The config of a ``…ForSequenceClassification``; changed in place.
        pooling: The recipe's ``reward.pooling``.
        rewards: Mean and standard deviation of the rewards of the validation answers.
    """
    set_one_output(config)
    config.mean, config.std = rewards
    config.rlhf = {"pooling": pooling}


def reward_model_to_train(section: ModelSection, init_from: str, seed: int = 0) -> RewardModel:
    """Load a reward model to train, with the folder's head, or with a new head where the folder has none.

    Args:
        section: The recipe's model section.
        init_from: Hub name or folder of a language model or a reward model.
        seed: Seed of a new head's weights.

    Returns:
        The reward model, with float32 weights; its ``head`` describes the head.

    Raises:
        ModelError: It cannot be loaded, or has several outputs of which ``model.label`` names none.
    """
    loaded = load_for_scoring(section, init_from)
    model = RewardModel(loaded.model, bf16=computes_bf16(section.dtype), head=loaded.head or "a new head")
    if not loaded.head:
        set_seed(seed)  # however many numbers were drawn while it was loaded
        model.init_head()
    return model


def load_reward_model(
    folder: str | Path, dtype: str = "fp32", *, label: str | int | None = None, trust_remote_code: bool = False
) -> RewardModel:
    """Load a trained reward model, made here or elsewhere: a decoder with a linear head.

    Args:
        folder: A reward-model folder, or a hub name.
        dtype: Precision of the backbone's computation.
        label: The name or number of the output that is the reward, where there are several.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The reward model in evaluation mode.

    Raises:
        ModelError: It cannot be loaded, it is a language model, or it has several outputs and none is chosen.
    """
    section = ModelSection(name=str(folder), dtype=dtype, label=label, trust_remote_code=trust_remote_code)  # type: ignore[arg-type]
    loaded = load_for_scoring(section, str(folder))
    if not loaded.head:
        raise ModelError(
            "this is a language model: it has no head that gives scores",
            where=str(folder),
            hint="Give a reward model, such as .../reward/final.",
        )
    model = RewardModel(loaded.model, bf16=computes_bf16(dtype), head=loaded.head).eval()
    check_rewards(model.config, str(folder))
    return model


def check_rewards(config: Any, where: str) -> None:
    """Refuse a config whose ``mean``, ``std`` or ``rlhf`` have values that cannot be used.

    Args:
        config: The config of a reward model, which may have been edited by hand.
        where: Its folder, for the error.

    Raises:
        ModelError: A value is not valid.
    """
    for key in ("mean", "std"):
        value = getattr(config, key, None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            hint = "Fix config.json: write the mean and the standard deviation of the rewards, or remove both."
            raise ModelError(f"{key} in config.json is not a number: {value!r:.40}", where=where, hint=hint)
    match getattr(config, "rlhf", None):
        case None | {"pooling": "last" | "mean" | "tokenwise"}:
            return
    what = "rlhf in config.json has no valid pooling"
    raise ModelError(what, where=where, hint='Write "rlhf": {"pooling": "last"} (or mean, tokenwise).')
