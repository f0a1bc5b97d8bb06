"""Attention over token trees on a CPU: written out, with its backward pass by hand.

For the branches of a group, ``Q`` scaled, and ``-inf`` added to ``S`` where a query does not see a key:

    S = Q K^T        dV = P^T dO
    P = softmax(S)   dP = dO V^T
    O = P V          dS = P * (dP - rowsum(P * dP))
                     dQ = dS K,  dK = dS^T Q

By hand, because we know more than autograd. Every token asks once: the gradient of the queries is gathered, not summed.
Keys behind the last query of a block are hidden from the whole block: they are left out. ``P`` is kept once, in the
precision of the computation. On two cores with AVX-512, twelve heads and sequences of 256 to 2,048 tokens it is 1.8 to
4.2 times as fast as torch's kernel in bfloat16, and 1.05 to 1.7 times in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhfcli.core.token_trees.attention_plan import BLOCK, AttentionPlan, Branches

LONGEST = {torch.float32: 1024, torch.bfloat16: 1024}  # of longer rows the weights would take too much memory


@dataclass(frozen=True)
class _Block:
    """Some queries of a group, and the keys before their end.

    Args:
        queries: Which of the group's queries.
        keys: How many of its keys.
        hidden: ``(branches or 1, 1, queries, keys)`` zero, or ``-inf`` where a query does not see a key.
    """

    queries: slice
    keys: int
    hidden: Tensor


@dataclass(frozen=True)
class _Rows:
    """A group of branches, with every head on its own: indices of rows in ``(tokens * heads, dimension)``.

    Args:
        queries: ``(branches * heads * q,)``.
        keys: ``(branches * key heads * k,)``.
        shape: Of the gathered queries: branches * key heads, query heads for each key head, q.
        blocks: What is computed at once.
    """

    queries: Tensor
    keys: Tensor
    shape: tuple[int, int, int]
    blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, group: Branches, heads: int, key_heads: int, window: int | None, dtype: torch.dtype) -> _Rows:
        """The rows of a group."""
        branches, q = group.queries.shape
        sees = group.sees(window)
        blocks = []
        for number, keys in enumerate(group.reach):
            queries = slice(number * BLOCK, min(number * BLOCK + BLOCK, q))
            seen = sees[:, :, queries, :keys]
            blocks.append(_Block(queries, keys, torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)))
        shape = branches * key_heads, heads // key_heads, q
        return cls(_by_head(group.queries, heads), _by_head(group.keys, key_heads), shape, tuple(blocks))


@dataclass(frozen=True)
class _Forest:
    """All groups, and for each token and head the row of its result in their concatenation."""

    groups: tuple[_Rows, ...]
    scatter: Tensor

    @classmethod
    def of(cls, plan: AttentionPlan, heads: int, key_heads: int, window: int | None, dtype: torch.dtype) -> _Forest:
        """What a plan means for so many heads; worked out once for all layers."""
        name = ("cpu", heads, key_heads, window, dtype)
        if name not in plan.derived:
            rows, begin = [], 0
            for group in plan.groups:
                branches, q = group.queries.shape
                cells = torch.arange(begin, begin + group.queries.numel() * heads).view(branches, heads, q)
                rows.append(cells.transpose(1, 2).reshape(-1, heads))
                begin += cells.numel()
            groups = tuple(_Rows.of(group, heads, key_heads, window, dtype) for group in plan.groups)
            plan.derived[name] = cls(groups, torch.cat(rows)[plan.scatter].flatten())
        found: _Forest = plan.derived[name]
        return found


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, *, window: int | None, scale: float
) -> Tensor:
    """Causal attention along each path of a forest, on a CPU.

    Args:
        query: ``(1, heads, tokens, dimension)``; key and value may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        plan: Where the branches are.
        window: How many tokens back a query sees; ``None``: all.
        scale: What the products of queries and keys are multiplied with.

    Returns:
        ``(1, tokens, heads, dimension)``.
    """
    heads, tokens = query.shape[1:3]
    forest = _Forest.of(plan, heads, key.shape[1], window, query.dtype)
    query, key, value = (part[0].transpose(0, 1).reshape(-1, part.shape[-1]) for part in (query * scale, key, value))
    result: Tensor = _Attention.apply(query, key, value, forest)  # type: ignore[no-untyped-call]
    return result.view(1, tokens, heads, -1)


class _Attention(torch.autograd.Function):
    """The formulas at the top; queries, keys, values and results as ``(tokens * heads, dimension)``."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, forest: _Forest) -> Tensor:
        results, weights = [], []
        for rows in forest.groups:
            q, k, v = _gathered(query, key, value, rows)
            result = q.new_empty(*q.shape[:3], v.shape[-1])
            for block in rows.blocks:
                asking = q[:, :, block.queries]
                scores = torch.bmm(asking.flatten(1, 2), k[:, : block.keys].mT)
                branches = len(block.hidden)
                scores.view(branches, -1, *block.hidden.shape[2:]).add_(block.hidden)
                weight = torch._softmax(scores, -1, False)  # of torch.softmax autocast would make float32
                result[:, :, block.queries] = torch.bmm(weight, v[:, : block.keys]).view(*asking.shape[:3], -1)
                weights += [weight] if any(ctx.needs_input_grad) else []
            results.append(result.flatten(0, 2))
        ctx.forest = forest
        ctx.save_for_backward(query, key, value, *weights)
        return torch.cat(results).index_select(0, forest.scatter)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *weights = ctx.saved_tensors
        forest: _Forest = ctx.forest
        cells = [len(rows.queries) for rows in forest.groups]
        grads = grad.new_zeros(sum(cells), grad.shape[-1]).index_copy_(0, forest.scatter, grad)
        d_query, d_key, d_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for rows, d_result in zip(forest.groups, torch.split(grads, cells), strict=True):
            q, k, v = _gathered(query, key, value, rows)
            d_result = d_result.view(*rows.shape, -1)
            d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for block in rows.blocks:
                weight, seen = weights.pop(0), slice(block.keys)
                asking, d_found = (part[:, :, block.queries].flatten(1, 2) for part in (q, d_result))
                d_v[:, seen].baddbmm_(weight.mT, d_found)
                d_weight = torch.bmm(d_found, v[:, seen].mT)
                d_scores = torch._softmax_backward_data(d_weight, weight, -1, weight.dtype)
                d_q[:, :, block.queries] = torch.bmm(d_scores, k[:, seen]).view(d_q[:, :, block.queries].shape)
                d_k[:, seen].baddbmm_(d_scores.mT, asking)
            d_query.append(d_q.flatten(0, 2))
            d_key.index_add_(0, rows.keys, d_k.flatten(0, 1))
            d_value.index_add_(0, rows.keys, d_v.flatten(0, 1))
        return torch.cat(d_query).index_select(0, forest.scatter), d_key, d_value, None


def _gathered(query: Tensor, key: Tensor, value: Tensor, rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``(branches * key heads, heads for each, q, dimension)``; the others ``(branches * key heads, k, …)``."""
    q = query.index_select(0, rows.queries).view(*rows.shape, -1)
    k, v = (part.index_select(0, rows.keys).view(rows.shape[0], -1, part.shape[-1]) for part in (key, value))
    return q, k, v


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """``(branches, n)`` tokens to ``(branches * heads * n,)`` rows of ``(tokens * heads, dimension)``."""
    return (tokens[:, None] * heads + torch.arange(heads)[:, None]).flatten()
