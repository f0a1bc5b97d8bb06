"""Token trees by FlexAttention: one kernel for the whole row, for GPUs; registered as ``rlhf_trees_flex``.

torch compiles a kernel from a rule that says which token sees which (arXiv 2412.05496). The rule of a forest is short:
token ``q`` sees token ``k`` when ``k <= q < ends[k]``, and where there is a window, when it is not further back on the
path. Blocks of 128 x 128 tokens that nobody looks into are skipped, and in blocks that everybody sees the rule is not
asked. Nothing is gathered and nothing is filled up, unlike in the rectangles of ``attention``.

Rows differ in length from batch to batch, so it is compiled for any length (``dynamic``; 32 lengths were traced twice).
A row of one block goes through the rectangles: torch compiles sizes of one anew.

This has never run on a GPU yet. Tested on a CPU: the rule, the blocks, tracing, and the forward pass, eager and
compiled for one length; torch 2.13 has no backward pass there, and cannot compile its kernel for any length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface

from rlhfcli.core.token_trees.attention_plan import AttentionPlan
from rlhfcli.core.token_trees.tree_attention import refuse_unknown, tree_attention

FLEX = "rlhf_trees_flex"
BLOCK = 128


def block_mask(plan: AttentionPlan, window: int | None = None) -> BlockMask:
    """The rule of a forest, and which blocks of the square it leaves empty or full; kept in the plan for all layers.

    As all that grows from a token stands behind it without a gap, a block of queries sees something of an earlier
    block of keys when the furthest of their ends lies behind its first query, and everything when the nearest of them
    lies behind its last: the square is never written out.

    Args:
        plan: The forest, where it is computed.
        window: How far back along its path a token sees.

    Returns:
        The mask.
    """
    if ("flex", window) in plan.derived:
        found: BlockMask = plan.derived["flex", window]
        return found
    ends, positions, count = plan.ends, plan.positions, len(plan.ends)
    cells = torch.arange(-(-count // BLOCK) * BLOCK, device=ends.device).clamp(max=count - 1).view(-1, BLOCK)
    first, last = cells[:, :1], cells[:, -1:]
    earlier = first > first.T
    some, full = ends[cells].amax(1) > first, ends[cells].amin(1) > last
    if window is not None:
        path = positions[cells]
        some = some & (path.amin(1)[:, None] - path.amax(1) < window)
        full = full & (path.amax(1)[:, None] - path.amin(1) < window)
    full = earlier & full
    partly = (first == first.T) | (earlier & some & ~full)
    mask = BlockMask.from_kv_blocks(
        *_listed(partly), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=_rule(plan, window), seq_lengths=(count, count)
    )
    plan.derived["flex", window] = mask
    return mask


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, ``(1, 1, n)``, and which, first, ``(1, 1, n, n)``."""
    which = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], which.int()[None, None]


def _rule(plan: AttentionPlan, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    ends, positions, reach = plan.ends, plan.positions, window or 0

    def on_the_path(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    def in_the_window(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key]) & (positions[query] - positions[key] < reach)

    return on_the_path if window is None else in_the_window


@cache
def _capped(cap: float | None) -> Callable[..., Tensor] | None:
    return (lambda score, *_: cap * torch.tanh(score / cap)) if cap else None


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)


def flex_tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    plan: AttentionPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The same as ``tree_attention``, which it calls for what FlexAttention cannot do.

    Args:
        module: The attention layer that calls.
        query: ``(1, heads, tokens, dimension)``; key and value may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Not used: the plan says it all.
        plan: Where the branches are; without one, plain causal attention.
        options: ``dropout``, ``scaling``, ``sliding_window``, ``softcap`` ... of the family.

    Returns:
        ``(1, tokens, heads, dimension)`` and no attention weights.

    Raises:
        ValueError: The family's attention does something that this one does not.
    """
    if plan is None or query.shape[2] <= BLOCK or options.get("dropout"):
        return tree_attention(module, query, key, value, attention_mask, plan, **options)
    refuse_unknown(options)
    kind = query.device.type
    # under autocast rotated queries are float32 and values are not; torch casts them for its other kernels by itself
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    result = _compiled()(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        score_mod=_capped(options.get("softcap")),
        block_mask=block_mask(plan, options.get("sliding_window")),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result.transpose(1, 2).contiguous(), None


AttentionInterface.register(FLEX, flex_tree_attention)
