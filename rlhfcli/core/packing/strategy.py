"""How a model computes a batch: the fastest strategy whose results are those of one sequence at a time.

1. Token trees, with the plan of the forest handed on to our attention function (``tree_attention``; to train on a GPU,
   ``tree_attention_flex`` where that works).
2. Token trees, with the forest as a 4-D mask for the family's own attention (``tree_mask``).
3. A padded rectangle, which every family computes.

Which of them a model can take is tried on a few tokens (``probes``), not looked up in a table of families. With each of
them, the last layer computes only the tokens that are needed (``last_layer``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rlhfcli.core.families.backbone import head_is_apart
from rlhfcli.core.families.rotary import length_dependence, rotating_by_own_length
from rlhfcli.core.packing.last_layer import prunable_layers, prune_last_layer, same_last_layer
from rlhfcli.core.packing.probes import flex_unsupported, mask_unsupported, trees_unsupported
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.token_trees.tree_attention_flex import FLEX
from rlhfcli.core.token_trees.tree_mask import MASK_TOKENS, masked

MASK = "mask"
_NAMES = {
    TREES: "token trees",
    FLEX: "token trees, FlexAttention",
    MASK: "token trees as a 4-D mask",
    None: "padded",
}


@dataclass(frozen=True)
class Strategy:
    """How a model computes a batch.

    Args:
        attention: What computes attention: ``TREES`` or ``FLEX``, functions registered with transformers; ``MASK``, the
            family's own with a 4-D mask; or ``None``, the family's own on padded batches.
        reason: Why it is not a faster one, for people; empty where there is none.
        pruned_layers: Linear layers of the last layer that compute only the tokens that are needed.
        head_apart: The head of a language model may be computed in parts (see ``language_model``).
    """

    attention: str | None
    reason: str = ""
    pruned_layers: tuple[str, ...] = ()
    head_apart: bool = False

    @property
    def packed(self) -> bool:
        """Whether batches are token trees; else they are padded rectangles."""
        return self.attention is not None

    @property
    def description(self) -> str:
        """The strategy in words, with the reason for it."""
        return f"{_NAMES[self.attention]}: {self.reason}" if self.reason else _NAMES[self.attention]

    def row_budget(self, tokens: int) -> int:
        """Return how many tokens one row should hold: a mask has a cell for every pair of them.

        Args:
            tokens: What fits into memory otherwise.
        """
        return min(tokens, MASK_TOKENS) if self.attention == MASK else tokens


def choose_strategy(model: Any, longest: int = 0, *, recomputed: bool = False, stand_in: Any = None) -> Strategy:
    """Choose the fastest strategy that gives the exact results of a model.

    Args:
        model: A transformers model, with or without a head.
        longest: Tokens of the longest sequence; some families rotate long ones in another way.
        recomputed: Whether activations are recomputed in the backward pass. It does not know any more which tokens were
            needed, so nothing is pruned.
        stand_in: A small model of the same kind (see ``make_stand_in``), on which the strategies are tried where the
            model itself cannot run.

    Returns:
        The strategy, with the reason why it is not a faster one.
    """
    tried = model if stand_in is None else stand_in
    attention, reason = _choose_attention(tried, longest)
    prunes = not recomputed and same_last_layer(tried, model)
    pruned = prunable_layers(tried) if prunes else ()
    return Strategy(attention, reason, pruned, head_is_apart(tried))


def _choose_attention(model: Any, longest: int) -> tuple[str | None, str]:
    if reason := length_dependence(model, longest):
        return None, reason
    reason = trees_unsupported(model)
    if reason is None:
        return TREES, ""
    return MASK if mask_unsupported(model) is None else None, reason


def with_flex_attention(strategy: Strategy, model: Any, *, bf16: bool) -> Strategy:
    """Train with FlexAttention where the model is on a GPU and computes token trees with it.

    Args:
        strategy: The choice of ``choose_strategy``.
        model: The transformers model.
        bf16: Whether it computes in bfloat16.

    Returns:
        The strategy with FlexAttention, or the given one with the reason why not.
    """
    if strategy.attention != TREES or model.device.type != "cuda":
        return strategy
    reason = flex_unsupported(model, bf16=bf16)
    if reason is None:
        return replace(strategy, attention=FLEX)
    return replace(strategy, reason=f"no FlexAttention, since {reason}")


@contextmanager
def computing_with(model: Any, strategy: Strategy) -> Iterator[None]:
    """Let a transformers model compute by a strategy within a block.

    Args:
        model: The model.
        strategy: Chosen for it.
    """
    attending = masked(model) if strategy.attention == MASK else attention(model, strategy.attention)
    with prune_last_layer(model, strategy.pruned_layers), attending, rotating_by_own_length(model):
        yield
