"""Attention over token trees, registered with transformers as ``rlhf_trees``.

Only attention has to know where the branches of a forest are; every other layer works token by token. Each branch is a
small problem of its own: its queries are its new tokens, its keys its whole path from the root, and a token sees the
keys up to its own position. A ``Plan`` gathers branches of similar shape into a rectangle just for the kernel, and
scatters the results back. A shared key is gathered for each branch that sees it, but its gradient is summed where it
stands in the row: the result is exact.

transformers lets a model take its attention from a registry; the plan travels as a keyword argument of the forward
call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from rlhfcli.core.forest import Forest

TREES = "rlhf_trees"
_UNKNOWN = ("position_bias", "s_aux")  # what some families' attention adds to the plain one
# rows of so many tokens are faster without torch's CPU flash kernel, whose backward pass is slow in bf16 (measured on
# two cores with AVX-512: 4 times at 90 tokens in bf16, 1.15 times in float32; beyond these lengths it wins)
_SHORT = {torch.float32: 128, torch.bfloat16: 512, torch.float16: 0, torch.float64: 0}


@dataclass(frozen=True)
class Branches:
    """Branches of similar shape, as a rectangle. Filling cells repeat the first token of the row; nobody looks at them.

    Args:
        queries: ``(branches, q)`` which tokens of the row ask.
        keys: ``(branches, k)`` which tokens they can see: their path.
        positions: ``(branches, q)``, or ``(1, q)`` where all are alike: the place of each query on its path.
        roots: All ask from the root on, so that queries and keys are the same and attention is plainly causal.
    """

    queries: Tensor
    keys: Tensor
    positions: Tensor
    roots: bool

    def to(self, device: torch.device | str) -> Branches:
        """The same on another device."""
        return Branches(self.queries.to(device), self.keys.to(device), self.positions.to(device), self.roots)

    def sees(self, window: int | None) -> Tensor:
        """``(branches or 1, 1, q, k)`` true where a query sees a key: at or before it, and in the sliding window."""
        distance = self.positions[:, None, :, None] - torch.arange(self.keys.shape[1], device=self.keys.device)
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(frozen=True)
class Plan:
    """Where the tokens of a forest stand during attention.

    Args:
        groups: Its branches.
        scatter: ``(tokens,)`` for each token of the row, its query cell in the concatenation of all groups.
        positions: ``(tokens,)`` as in the forest.
        ends: ``(tokens,)`` as in the forest.
        masks: What ``flex`` makes of them, by window.
    """

    groups: tuple[Branches, ...]
    scatter: Tensor
    positions: Tensor
    ends: Tensor
    masks: dict[int | None, BlockMask] = field(default_factory=dict, compare=False)

    def to(self, device: torch.device | str) -> Plan:
        """The same on another device."""
        groups = tuple(group.to(device) for group in self.groups)
        return Plan(groups, self.scatter.to(device), self.positions.to(device), self.ends.to(device))


def make_plan(forest: Forest) -> Plan:
    """Group the branches of a forest into rectangles.

    A branch that shares less than half of its path asks with the whole path, and what the shared tokens get is thrown
    away: without a mask the causal kernels skip half of the cells, with one they compute them all.

    Args:
        forest: The sequences.

    Returns:
        The plan.
    """
    scatter = torch.empty(len(forest.ids), dtype=torch.long)
    groups, offset = [], 0
    asking = forest.shared.where(forest.shared * 2 >= forest.lengths, 0)  # each path's first query
    new = forest.shared < forest.lengths
    for members in chain(_alike(forest.lengths, new & (asking == 0)), _alike(forest.lengths, new & (asking > 0))):
        lengths, first = forest.lengths[members, None], asking[members, None]
        positions = first + torch.arange(int((lengths - first).max()))
        real = positions < lengths
        positions = positions.where(real, 0)
        paths = forest.index[members, : int(lengths.max())]
        queries = paths.gather(1, positions).where(real, 0)
        own = real & (positions >= forest.shared[members, None])
        scatter[queries[own]] = offset + torch.arange(own.numel()).view_as(own)[own]
        offset += real.numel()
        roots = not first.any()
        groups.append(Branches(queries, paths, torch.arange(real.shape[1])[None] if roots else positions, roots))
    return Plan(tuple(groups), scatter, forest.positions, forest.ends)


def _alike(lengths: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    """The chosen sequences in groups, no path shorter than two thirds of the group's longest.

    Measured with pairs of HH on a CPU: with half the longest, there is more filling and a step is 2 % (OPT-125M) to
    12 % (the tiny model's shape) slower; grouping by the number of queries as well wins nothing.
    """
    rows = chosen.nonzero().squeeze(1)
    rows = rows[lengths[rows].argsort(descending=True, stable=True)]
    while len(rows):
        count = int((lengths[rows] * 3 >= lengths[rows[0]] * 2).sum())
        yield rows[:count]
        rows = rows[count:]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    plan: Plan | None = None,
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
    options["is_causal"] = None
    results = []
    for group in plan.groups:
        rows = _gather(query, group.queries), _gather(key, group.keys), _gather(value, group.keys)
        longest = group.keys.shape[1]
        short = query.device.type == "cpu" and longest <= _SHORT[query.dtype]
        if short or options.get("softcap"):  # torch's kernels know no soft cap
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
