"""Attention over token trees on a CPU: written out, with its backward pass by hand.

For the branches of a group, ``Q`` scaled, and ``-inf`` added to ``S`` where a query does not see a key:

    S = Q K^T        dV = P^T dO
    P = softmax(S)   dP = dO V^T
    O = P V          dS = P * (dP - rowsum(P * dP))
                     dQ = dS K,  dK = dS^T Q

By hand, because we know more than autograd. Every token asks once: the gradient of the queries is gathered, not summed.
Keys behind the last query of a block are hidden from the whole block, and left out. ``P`` is kept once, in the
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

LONGEST = {
    torch.float32: 1024,
    torch.bfloat16: 1024,
}  # tokens of a path: the weights of more take too much memory


@dataclass(frozen=True)
class _Block:
    """Up to ``BLOCK`` queries of a group, and the keys that they see.

    Args:
        queries: The range of the group's queries.
        keys: How many of its keys they see at most.
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
        shape: Shape of the gathered queries: branches * key heads, query heads for each key head, q.
        blocks: The parts that are computed at once.
    """

    queries: Tensor
    keys: Tensor
    shape: tuple[int, int, int]
    blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, group: Branches, heads: int, key_heads: int, window: int | None, dtype: torch.dtype) -> _Rows:
        """Make the rows of a group for a number of heads."""
        branches, q = group.queries.shape
        sees = group.sees(window)
        blocks = []
        for number, keys in enumerate(group.visible_keys):
            queries = slice(number * BLOCK, min(number * BLOCK + BLOCK, q))
            visible = sees[:, :, queries, :keys]
            hidden = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, -torch.inf)
            blocks.append(_Block(queries, keys, hidden))
        shape = branches * key_heads, heads // key_heads, q
        return cls(_by_head(group.queries, heads), _by_head(group.keys, key_heads), shape, tuple(blocks))


@dataclass(frozen=True)
class _Forest:
    """All groups of a plan.

    Args:
        groups: Their rows.
        cells: ``(tokens * heads,)`` for each token and head, its row in the concatenation of all groups' queries.
    """

    groups: tuple[_Rows, ...]
    cells: Tensor

    @classmethod
    def of(cls, plan: AttentionPlan, heads: int, key_heads: int, window: int | None, dtype: torch.dtype) -> _Forest:
        """Prepare a plan for a number of heads, once for all layers."""
        name = ("cpu", heads, key_heads, window, dtype)
        if name not in plan.derived:
            rows, begin = [], 0
            for group in plan.groups:
                branches, q = group.queries.shape
                cells = torch.arange(begin, begin + group.queries.numel() * heads).view(branches, heads, q)
                rows.append(cells.transpose(1, 2).reshape(-1, heads))
                begin += cells.numel()
            groups = tuple(_Rows.of(group, heads, key_heads, window, dtype) for group in plan.groups)
            plan.derived[name] = cls(groups, torch.cat(rows)[plan.cells].flatten())
        forest: _Forest = plan.derived[name]
        return forest


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, *, window: int | None, scale: float
) -> Tensor:
    """Compute causal attention along each path of a forest, on a CPU.

    Args:
        query: ``(1, heads, tokens, dimension)``.
        key: ``(1, key heads, tokens, dimension)``; there may be fewer key heads than heads.
        value: As ``key``.
        plan: Where the branches are.
        window: How many tokens back along its path a query sees, itself included; ``None``: all.
        scale: Factor of the products of queries and keys.

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
            q, k, v = _gather(query, key, value, rows)
            result = q.new_empty(*q.shape[:3], v.shape[-1])
            for block in rows.blocks:
                q_block = q[:, :, block.queries]
                scores = torch.bmm(q_block.flatten(1, 2), k[:, : block.keys].mT)
                branches = len(block.hidden)
                scores.view(branches, -1, *block.hidden.shape[2:]).add_(block.hidden)
                weight = torch._softmax(scores, -1, False)  # of torch.softmax autocast would make float32
                result[:, :, block.queries] = torch.bmm(weight, v[:, : block.keys]).view(*q_block.shape[:3], -1)
                weights += [weight] if any(ctx.needs_input_grad) else []
            results.append(result.flatten(0, 2))
        ctx.forest = forest
        ctx.save_for_backward(query, key, value, *weights)
        return torch.cat(results).index_select(0, forest.cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *weights = ctx.saved_tensors
        forest: _Forest = ctx.forest
        cells = [len(rows.queries) for rows in forest.groups]
        grads = grad.new_zeros(sum(cells), grad.shape[-1]).index_copy_(0, forest.cells, grad)
        d_query, d_key, d_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for rows, d_result in zip(forest.groups, torch.split(grads, cells), strict=True):
            q, k, v = _gather(query, key, value, rows)
            d_result = d_result.view(*rows.shape, -1)
            d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for block in rows.blocks:
                weight, keys = weights.pop(0), slice(block.keys)
                q_block, d_block = (part[:, :, block.queries].flatten(1, 2) for part in (q, d_result))
                d_v[:, keys].baddbmm_(weight.mT, d_block)
                d_weight = torch.bmm(d_block, v[:, keys].mT)
                d_scores = torch._softmax_backward_data(d_weight, weight, -1, weight.dtype)
                d_q[:, :, block.queries] = torch.bmm(d_scores, k[:, keys]).view(d_q[:, :, block.queries].shape)
                d_k[:, keys].baddbmm_(d_scores.mT, q_block)
            d_query.append(d_q.flatten(0, 2))
            d_key.index_add_(0, rows.keys, d_k.flatten(0, 1))
            d_value.index_add_(0, rows.keys, d_v.flatten(0, 1))
        return torch.cat(d_query).index_select(0, forest.cells), d_key, d_value, None


def _gather(query: Tensor, key: Tensor, value: Tensor, rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Gather queries as ``(branches * key heads, heads for each, q, dimension)``, the rest ``(…, k, dimension)``."""
    q = query.index_select(0, rows.queries).view(*rows.shape, -1)
    k, v = (part.index_select(0, rows.keys).view(rows.shape[0], -1, part.shape[-1]) for part in (key, value))
    return q, k, v


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Turn ``(branches, n)`` tokens into ``(branches * heads * n,)`` rows of ``(tokens * heads, dimension)``."""
    return (tokens[:, None] * heads + torch.arange(heads)[:, None]).flatten()
