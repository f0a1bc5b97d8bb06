"""Attention over token trees, registered with transformers as ``rlhf_trees``.

Only attention has to know where the branches of a forest are; every other layer works token by token. An
``AttentionPlan``
gathers branches of similar shape into a rectangle just for the kernel, and scatters the results back. A shared key is
gathered for each branch that sees it, but its gradient is summed where it stands in the row: the result is exact.

transformers lets a model take its attention from a registry; the plan travels as a keyword argument of the forward
call.
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
from rlhfcli.core.token_trees.attention_plan import AttentionPlan

TREES = "rlhf_trees"
_UNKNOWN = ("position_bias", "s_aux")  # what some families' attention adds to the plain one


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    plan: AttentionPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention along each path of a forest; registered with transformers as ``rlhf_trees``.

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
    if plan is None:
        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result, None
    refuse_unknown(options)
    window = options.pop("sliding_window", None)
    query, key, value = _in_one_precision(query, key, value)
    longest = max(group.keys.shape[1] for group in plan.groups)
    plain = not options.get("softcap") and not options.get("dropout")
    if query.device.type == "cpu" and plain and longest <= tree_attention_cpu.LONGEST.get(query.dtype, 0):
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        return tree_attention_cpu.attend(query, key, value, plan, window=window, scale=scale), None
    options["is_causal"] = None
    results = []
    for group in plan.groups:
        rows = _gather(query, group.queries), _gather(key, group.keys), _gather(value, group.keys)
        longest = group.keys.shape[1]
        if options.get("softcap"):  # torch's kernels know none
            result = _written_out(rows, group.sees(window), options)
        else:  # without a mask the kernel is causal by itself, and faster
            mask = None if group.roots and not (window and longest > window) else group.sees(window)
            result, _ = sdpa_attention_forward(module, *rows, mask, **options)
        results.append(result.flatten(0, 1))
    return torch.cat(results).index_select(0, plan.scatter)[None], None


def refuse_unknown(options: dict[str, Any]) -> None:
    """Raise ``ValueError`` where a family's attention does something that ours does not."""
    unknown = [name for name in _UNKNOWN if options.get(name) is not None]
    if unknown:  # left out they would change the result, by too little for a small probe to notice
        raise ValueError(f"its attention has {unknown[0]}")


def _in_one_precision(*parts: Tensor) -> Iterator[Tensor]:
    """What autocast would do: a family's norms of queries and keys may leave them in float32, beside lower values."""
    kind = parts[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[0].dtype
    return (part.to(dtype) for part in parts)


def _written_out(rows: tuple[Tensor, Tensor, Tensor], sees: Tensor, options: dict[str, Any]) -> Tensor:
    """``softmax(q k^T * scale) v``; softmax in float32, as transformers' own eager attention.

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
    """``(1, heads, tokens, dimension)`` to ``(branches, heads, longest, dimension)``."""
    # index_select: its backward pass is several times faster on a CPU than that of tensor[index]
    chosen = tensor[0].transpose(0, 1).index_select(0, cells.flatten())
    return chosen.view(*cells.shape, *chosen.shape[1:]).transpose(1, 2)


AttentionInterface.register(TREES, tree_attention)


@contextmanager
def attention(model: Any, name: str | None) -> Iterator[None]:
    """Let a transformers model use another registered attention function for a while; ``None``: its own."""
    before = model.config._attn_implementation
    if name is None or before == name or not model._can_set_attn_implementation():
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
