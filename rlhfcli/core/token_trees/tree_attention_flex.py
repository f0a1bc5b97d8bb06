"""Token trees by FlexAttention: one kernel for the whole row, for GPUs; registered as ``rlhf_trees_flex``.

torch compiles a kernel from a rule that says which token sees which (arXiv 2412.05496). The rule of a forest is short:
token ``q`` sees token ``k`` when ``k <= q < ends[k]`` and, where there is a window, ``k`` is not too far back on the
path of ``q``. Blocks of 128 x 128 pairs of which the rule forbids all are skipped, and in blocks of which it allows all
it is not evaluated. Nothing is gathered and nothing is filled up, unlike in the rectangles of ``tree_attention``.

Rows differ in length from batch to batch, so the kernel is compiled for any length (``dynamic``; 32 lengths were traced
twice). A row of one block goes through the rectangles: torch would compile sizes of one anew.

It has not run on a GPU yet. Tested on a CPU: the rule, the blocks, tracing, and the forward pass, eager and
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
    """Return the rule of a forest, and which blocks of the square it leaves empty, fills, or cuts.

    The square of queries and keys is never written out. Whatever grows from a token follows it without a gap, so a
    block of queries sees something of an earlier block of keys when the furthest of their ends lies behind its first
    query, and everything when the nearest of them lies behind its last. For ``window=None`` and blocks of two tokens:

        row     the cat sat .  !  who ran ?        blocks of keys     0  1  2  3
        index    0   1   2  3  4   5   6  7        queries 0  1       /  .  .  .     .  empty: skipped
        ends     5   5   5  4  5   8   8  8        queries 2  3       #  /  .  .     #  full: the rule is not evaluated
                                                   queries 4  5       /  /  /  .     /  partial: the rule is evaluated
                                                   queries 6  7       .  .  /  /

    Args:
        plan: The forest, on the device where it is computed.
        window: How many tokens back along its path a token sees, itself included; ``None``: all.

    Returns:
        The mask, which the plan keeps for all layers.
    """
    if ("flex", window) in plan.derived:
        known: BlockMask = plan.derived["flex", window]
        return known
    ends, positions, count = plan.ends, plan.positions, len(plan.ends)
    tokens = torch.arange(-(-count // BLOCK) * BLOCK, device=ends.device).clamp(max=count - 1).view(-1, BLOCK)
    first, last = tokens[:, :1], tokens[:, -1:]
    earlier, same = first > first.T, first == first.T
    seen, full = ends[tokens].amax(1) > first, ends[tokens].amin(1) > last  # (blocks of queries, blocks of keys)
    if window is not None:
        path = positions[tokens]
        seen = seen & (path.amin(1)[:, None] - path.amax(1) < window)
        full = full & (path.amax(1)[:, None] - path.amin(1) < window)
    full = earlier & full
    partial = same | (earlier & seen & ~full)
    mask = BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=_rule(plan, window), seq_lengths=(count, count)
    )
    plan.derived["flex", window] = mask
    return mask


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries has, ``(1, 1, n)``, and which, first, ``(1, 1, n, n)``."""
    which = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], which.int()[None, None]


def _rule(plan: AttentionPlan, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    ends, positions, width = plan.ends, plan.positions, window or 0

    def on_the_path(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    def in_the_window(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key]) & (positions[query] - positions[key] < width)

    return on_the_path if window is None else in_the_window


@cache
def _capped(cap: float | None) -> Callable[..., Tensor] | None:
    return (lambda score, *_: cap * torch.tanh(score / cap)) if cap else None


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)


def flex_tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute the same as ``tree_attention``, which is called for what FlexAttention cannot do.

    Args:
        module: See ``tree_attention``.
        query: See ``tree_attention``.
        key: See ``tree_attention``.
        value: See ``tree_attention``.
        attention_mask: See ``tree_attention``.
        options: See ``tree_attention``.

    Returns:
        ``(1, tokens, heads, dimension)`` and no attention weights.

    Raises:
        ValueError: The family's attention does something that this one does not.
    """
    plan: AttentionPlan | None = options.get("plan")
    if plan is None or query.shape[2] <= BLOCK or options.get("dropout"):
        return tree_attention(module, query, key, value, attention_mask, **options)
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
