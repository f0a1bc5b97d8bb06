"""Attention over token trees, registered with transformers as ``rlhf_trees``.

Only attention has to know where the branches of a forest are; every other layer works token by token. An
``AttentionPlan`` gathers branches of similar shape into a rectangle just for the kernel, and the results go back to
their place in the row. A shared key is gathered for each branch that sees it, but its gradient is summed where it
stands in the row: the result is exact.

transformers lets a model take its attention from a registry; the plan travels as the keyword argument ``plan`` of the
model's forward call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from rlhfcli.core.token_trees import tree_attention_cpu
from rlhfcli.core.token_trees.attention_plan import AttentionPlan, Branches

TREES = "rlhf_trees"
_UNKNOWN = ("position_bias", "s_aux")  # additions of some families to plain attention


def tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute causal attention along each path of a forest.

    Args:
        module: The attention layer that calls.
        query: ``(1, heads, tokens, dimension)``.
        key: ``(1, key heads, tokens, dimension)``; there may be fewer key heads than heads.
        value: As ``key``.
        attention_mask: Not used where there is a plan.
        options: ``plan``, the ``AttentionPlan``, without which attention is plainly causal; and the family's
            ``dropout``, ``scaling``, ``sliding_window``, ``softcap`` ...

    Returns:
        ``(1, tokens, heads, dimension)`` and no attention weights.

    Raises:
        ValueError: The family's attention does something that this one does not.
    """
    plan: AttentionPlan | None = options.pop("plan", None)
    if plan is None:
        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result, None
    refuse_unknown(options)
    window = options.pop("sliding_window", None)
    query, key, value = _in_one_precision(query, key, value)
    if _on_cpu(query, plan, options):
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        return tree_attention_cpu.attend(query, key, value, plan, window=window, scale=scale), None
    results = [_attend_group(module, (query, key, value), group, window, options) for group in plan.groups]
    return torch.cat(results).index_select(0, plan.cells)[None], None


def _attend_group(
    module: nn.Module,
    parts: tuple[Tensor, Tensor, Tensor],
    group: Branches,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    """Compute the ``(branches * q, heads, dimension)`` results of a group by one of torch's kernels."""
    query, key, value = parts
    rows = _gather(query, group.queries), _gather(key, group.keys), _gather(value, group.keys)
    if options.get("softcap"):  # torch's kernels have none
        result = _written_out(rows, group.sees(window), options)
    else:  # without a mask the kernel is causal by itself, and faster
        causal = group.from_root and not (window and group.keys.shape[1] > window)
        mask = None if causal else group.sees(window)
        result, _ = sdpa_attention_forward(module, *rows, mask, **options | {"is_causal": None})
    return result.flatten(0, 1)


def _on_cpu(query: Tensor, plan: AttentionPlan, options: dict[str, Any]) -> bool:
    """Return whether our own kernel for CPUs can be used."""
    longest = max(group.keys.shape[1] for group in plan.groups)
    plain = not options.get("softcap") and not options.get("dropout")
    return query.device.type == "cpu" and plain and longest <= tree_attention_cpu.LONGEST.get(query.dtype, 0)


def refuse_unknown(options: dict[str, Any]) -> None:
    """Refuse what a family adds to plain attention and ours does not compute.

    Args:
        options: The keyword arguments of the family's call.

    Raises:
        ValueError: There is such an addition.
    """
    unknown = [name for name in _UNKNOWN if options.get(name) is not None]
    if unknown:  # left out it would change the result, by too little for a small probe to notice
        raise ValueError(f"its attention has {unknown[0]}")


def _in_one_precision(*parts: Tensor) -> Iterator[Tensor]:
    """Cast as autocast would: a family's norms of queries and keys may leave them in float32, beside lower values."""
    kind = parts[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[0].dtype
    return (part.to(dtype) for part in parts)


def _written_out(rows: tuple[Tensor, Tensor, Tensor], sees: Tensor, options: dict[str, Any]) -> Tensor:
    """Compute ``softmax(q k^T * scale) v``; softmax in float32, as transformers' own eager attention.

    Args:
        rows: Query ``(branches, heads, q, dimension)``, key and value ``(branches, key heads, k, dimension)``.
        sees: ``(branches or 1, 1, q, k)`` which keys each query sees.
        options: ``scaling``, ``softcap`` and ``dropout``.

    Returns:
        ``(branches, q, heads, dimension)``.
    """
    query, key, value = rows
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scale, cap = options.get("scaling") or query.shape[-1] ** -0.5, options.get("softcap")
    scores = query * scale @ key.transpose(-1, -2)
    if cap:
        scores = cap * (scores / cap).tanh()
    hidden = torch.zeros(sees.shape, dtype=scores.dtype, device=sees.device).masked_fill(~sees, -torch.inf)
    weights = (scores + hidden).softmax(-1, dtype=torch.float32).to(query.dtype)
    result: Tensor = nn.functional.dropout(weights, options.get("dropout", 0.0)) @ value
    return result.transpose(1, 2)


def _gather(tensor: Tensor, cells: Tensor) -> Tensor:
    """Turn ``(1, heads, tokens, dimension)`` into ``(branches, heads, n, dimension)``, for ``(branches, n)`` cells."""
    # index_select: its backward pass is several times faster on a CPU than that of tensor[index]
    chosen = tensor[0].transpose(0, 1).index_select(0, cells.flatten())
    return chosen.view(*cells.shape, *chosen.shape[1:]).transpose(1, 2)


AttentionInterface.register(TREES, tree_attention)


@contextmanager
def attention(model: Any, name: str | None) -> Iterator[None]:
    """Let a transformers model use another registered attention function within a block.

    Args:
        model: The model.
        name: The function's name; ``None``: the model's own.
    """
    before = model.config._attn_implementation
    if name is None or before == name or not model._can_set_attn_implementation():
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
