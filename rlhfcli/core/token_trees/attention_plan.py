"""Which tokens of a forest ask during attention, and which they see.

Each branch is a small problem of its own: its *queries* are its new tokens, its *keys* its whole path from the root,
and a token sees the keys up to its own position. An ``AttentionPlan`` gathers branches of similar shape into
rectangles, just for the kernel, and says in which of their cells the result of each token is found:

    sequences   the cat sat .        row   the cat sat .  !  who ran ?
                the cat sat !               0   1   2  3  4   5   6  7
                who ran ?

    group 0: branches that begin at a root             group 1: branches that share a path
    queries    0 1 2 3    keys    0 1 2 3              queries    4    keys    0 1 2 4
               5 6 7 .            5 6 7 .              positions  3
    positions  0 1 2 3

    all query cells   0 1 2 3 5 6 7 . 4                cells      0 1 2 3 8 4 5 6      (where 0, 1, ..., 7 stand)

A dot is a filling cell: it repeats token 0, and nobody reads its result.
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
    """Branches of similar shape, as a rectangle.

    Args:
        queries: ``(branches, q)`` the tokens of the row that ask.
        keys: ``(branches, k)`` the tokens that they may see: their path.
        positions: ``(branches, q)``, or ``(1, q)`` where all are alike: the position of each query on its path.
        from_root: Whether all ask from the root on, so that queries and keys are the same and attention is plainly
            causal.
        visible_keys: For each block of ``BLOCK`` queries, how many keys one of them sees at most.
    """

    queries: Tensor
    keys: Tensor
    positions: Tensor
    from_root: bool
    visible_keys: tuple[int, ...]

    def sees(self, window: int | None) -> Tensor:
        """Return which queries see which keys: those at or before them, and in the sliding window.

        Args:
            window: How many tokens back along its path a query sees, itself included; ``None``: all.

        Returns:
            ``(branches or 1, 1, q, k)`` true where a query sees a key.
        """
        distance = self.positions[:, None, :, None] - torch.arange(self.keys.shape[1], device=self.keys.device)
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(frozen=True)
class AttentionPlan(Movable):
    """What attention has to know of a forest.

    Args:
        groups: Its branches, as rectangles.
        cells: ``(tokens,)`` for each token of the row, its query cell in the concatenation of all groups.
        positions: ``(tokens,)`` as in the forest.
        ends: ``(tokens,)`` as in the forest.
        derived: What attention functions compute from the plan, once for all layers.
    """

    groups: tuple[Branches, ...]
    cells: Tensor
    positions: Tensor
    ends: Tensor
    derived: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)


def make_plan(forest: Forest) -> AttentionPlan:
    """Group the branches of a forest into rectangles.

    A branch that shares less than half of its path asks with the whole path, and the results of its shared tokens are
    thrown away: without a mask the causal kernels skip half of the cells, with one they compute them all.

    Args:
        forest: The sequences.

    Returns:
        The plan.
    """
    cells = torch.empty(len(forest.ids), dtype=torch.long)
    groups, offset = [], 0
    first_query = forest.shared.where(forest.shared * 2 >= forest.lengths, 0)
    new = forest.shared < forest.lengths
    from_root, from_branch = new & (first_query == 0), new & (first_query > 0)
    for members in chain(_alike(forest.lengths, from_root), _alike(forest.lengths, from_branch)):
        lengths, first = forest.lengths[members, None], first_query[members, None]
        positions = first + torch.arange(int((lengths - first).max()))
        real = positions < lengths
        positions = positions.where(real, 0)
        paths = forest.index[members, : int(lengths.max())]
        queries = paths.gather(1, positions).where(real, 0)
        own = real & (positions >= forest.shared[members, None])
        cells[queries[own]] = offset + torch.arange(own.numel()).view_as(own)[own]
        offset += real.numel()
        groups.append(_branches(queries, paths, positions, from_root=not first.any()))
    return AttentionPlan(tuple(groups), cells, forest.positions, forest.ends)


def _branches(queries: Tensor, keys: Tensor, positions: Tensor, *, from_root: bool) -> Branches:
    positions = torch.arange(queries.shape[1])[None] if from_root else positions
    visible_keys = tuple(int(block.max()) + 1 for block in torch.split(positions, BLOCK, dim=1))
    return Branches(queries, keys, positions, from_root, visible_keys)


def _alike(lengths: Tensor, chosen: Tensor) -> Iterator[Tensor]:
    """Yield the chosen sequences in groups, no path shorter than two thirds of the group's longest.

    Measured with pairs of HH on a CPU: with half the longest, there is more filling and a step is 2 % (OPT-125M) to
    12 % (the tiny model's shape) slower; grouping by the number of queries as well wins nothing.
    """
    rows = chosen.nonzero().squeeze(1)
    rows = rows[lengths[rows].argsort(descending=True, stable=True)]
    while len(rows):
        count = int((lengths[rows] * 3 >= lengths[rows[0]] * 2).sum())
        yield rows[:count]
        rows = rows[count:]
