"""Where the branches of a forest stand during attention: which tokens ask, and which they can see.

Each branch is a small problem of its own: its queries are its new tokens, its keys its whole path from the root, and a
token sees the keys up to its own position. An ``AttentionPlan`` gathers branches of similar shape into rectangles,
just for the kernel, and says where the results belong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.movable import Movable
from rlhfcli.core.token_trees.forest import Forest

BLOCK = 128  # queries that a CPU computes at once: 64 to 256 are about equally fast


@dataclass(frozen=True)
class Branches(Movable):
    """Branches of similar shape, as a rectangle. Filling cells repeat the first token of the row; nobody looks at them.

    Args:
        queries: ``(branches, q)`` which tokens of the row ask.
        keys: ``(branches, k)`` which tokens they can see: their path.
        positions: ``(branches, q)``, or ``(1, q)`` where all are alike: the place of each query on its path.
        roots: All ask from the root on, so that queries and keys are the same and attention is plainly causal.
        reach: How many keys, at most, a query of each block of ``BLOCK`` sees.
    """

    queries: Tensor
    keys: Tensor
    positions: Tensor
    roots: bool
    reach: tuple[int, ...]

    def sees(self, window: int | None) -> Tensor:
        """``(branches or 1, 1, q, k)`` true where a query sees a key: at or before it, and in the sliding window."""
        distance = self.positions[:, None, :, None] - torch.arange(self.keys.shape[1], device=self.keys.device)
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(frozen=True)
class AttentionPlan(Movable):
    """Where the tokens of a forest stand during attention.

    Args:
        groups: Its branches.
        scatter: ``(tokens,)`` for each token of the row, its query cell in the concatenation of all groups.
        positions: ``(tokens,)`` as in the forest.
        ends: ``(tokens,)`` as in the forest.
        derived: What attention functions make of it, once for all layers.
    """

    groups: tuple[Branches, ...]
    scatter: Tensor
    positions: Tensor
    ends: Tensor
    derived: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)


def make_plan(forest: Forest) -> AttentionPlan:
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
        positions = torch.arange(real.shape[1])[None] if roots else positions
        reach = tuple(int(block.max()) + 1 for block in torch.split(positions, BLOCK, dim=1))
        groups.append(Branches(queries, paths, positions, roots, reach))
    return AttentionPlan(tuple(groups), scatter, forest.positions, forest.ends)


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
