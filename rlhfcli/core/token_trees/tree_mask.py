"""Token trees for families with an attention of their own: the forest as an ordinary attention mask.

GPT-J, Falcon and StableLM hand no plan on to their attention, and GPT-OSS adds attention sinks that ours does not
compute. Most of them add any 4-D mask to their scores, though, and that is enough: a token sees its path and nothing
else. They compute every cell of the square, so a row must not be long: ``MASK_TOKENS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhfcli.core.token_trees.attention_plan import AttentionPlan

MASK_TOKENS = 2048  # longest row of several examples; the scores of one head are 16 MiB then, in float32
FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names for kinds of layers


def sees(plan: AttentionPlan, window: int | None = None) -> Tensor:
    """Return which tokens of a row see which.

    Args:
        plan: The forest.
        window: How many tokens back along its path a token sees, itself included; ``None``: all.

    Returns:
        ``(tokens, tokens)`` true where the token of that row sees the token of that column.
    """
    row = torch.arange(len(plan.ends), device=plan.ends.device)
    seen = (row <= row[:, None]) & (row[:, None] < plan.ends)
    return seen if window is None else seen & (plan.positions[:, None] - plan.positions < window)


def layer_kinds(config: Any) -> set[str]:
    """Return the kinds of layers that a config lists; none where all are alike.

    Args:
        config: A transformers model's config.
    """
    return set(getattr(config.get_text_config(), "layer_types", None) or ())


def attention_mask(config: Any, plan: AttentionPlan, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Write the forest out as the mask that a family takes.

    Args:
        config: A transformers model's config.
        plan: The forest.
        dtype: Type of the attention scores.

    Returns:
        ``(1, 1, tokens, tokens)``, to be added to the scores; a family with kinds of layers gets one for each kind.
    """
    config = config.get_text_config()
    windows = {FULL: None, SLIDING: getattr(config, "sliding_window", None)}
    hidden = torch.finfo(dtype).min
    masks = {
        kind: torch.zeros(2 * plan.ends.shape, dtype=dtype, device=plan.ends.device).masked_fill_(
            ~sees(plan, windows[kind]), hidden
        )[None, None]
        for kind in sorted(layer_kinds(config)) or [FULL]
    }
    return masks if SLIDING in masks else masks[FULL]


@contextmanager
def masked(model: Any) -> Iterator[None]:
    """Let a transformers model, and its backbone, replace the plan that they are given by a mask, within a block.

    Args:
        model: A model that computes with its own attention.
    """

    def mask_for_plan(_: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        plan = inputs.pop("plan", None)
        if plan is not None:
            inputs["attention_mask"] = attention_mask(model.config, plan, model.dtype)
        return args, inputs

    entrances = {model, getattr(model, model.base_model_prefix, model)}
    handles = [entrance.register_forward_pre_hook(mask_for_plan, with_kwargs=True) for entrance in entrances]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
