"""How the micro-batches of a step, or of an evaluation, are shared among the ranks.

The step decides what belongs together, not the number of ranks: all ranks know all rows of a step, cut them in the same
way, and each takes its share. Stages 2 and 3 of ZeRO exchange something in every pass, so every rank has to make as
many passes as the others: one that has fewer micro-batches repeats a small one that does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhfcli.core.tasks import Batch, Task

Parts = list[list[int]]


@dataclass(frozen=True)
class Share:
    """What one rank computes.

    Args:
        batches: Its micro-batches.
        repeats: What it computes besides, so that all ranks make as many passes; it counts for nothing.
    """

    batches: list[Batch]
    repeats: list[Batch]


def cut(task: Task, rows: Sequence[int], budget: int, ranks: int) -> list[Parts]:
    """Cut examples into micro-batches for all ranks.

    Args:
        task: Knows how large the examples are, and which should stand together.
        rows: Numbers of the examples.
        budget: Tokens that one device holds.
        ranks: How many ranks.

    Returns:
        For each rank its micro-batches; every row is in one of them.
    """
    lengths = task.lengths()
    if ranks == 1:
        return [task.cut(rows, budget)]
    tokens, longest = sum(lengths[row] for row in rows), max(lengths[row] for row in rows)
    even = math.ceil(tokens / ranks / math.ceil(tokens / ranks / budget))
    # a micro-batch is seldom quite full: with a little more room there are as few of them as can be
    tried = {min(budget, even + extra) for extra in (0, longest // 2, longest)}
    divisions = [divide(task.cut(rows, room), lengths, ranks) for room in sorted(tried)]
    return min(divisions, key=lambda shares: (passes(shares), max(_tokens(parts, lengths) for parts in shares)))


def divide(parts: Parts, lengths: Sequence[int], ranks: int) -> list[Parts]:
    """Give every rank some micro-batches: the largest first, each to the rank that has the least so far.

    Args:
        parts: Rows of each micro-batch.
        lengths: Tokens of every row.
        ranks: How many ranks.

    Returns:
        For each rank its micro-batches; every one of them belongs to one rank.
    """
    shares: list[Parts] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for part in sorted(parts, key=lambda part: -_tokens([part], lengths)):
        least = min(range(ranks), key=lambda rank: (load[rank], len(shares[rank])))
        shares[least].append(part)
        load[least] += _tokens([part], lengths)
    return shares


def passes(shares: Sequence[Parts]) -> int:
    """How many passes every rank makes."""
    return max(len(parts) for parts in shares)


def share_of(task: Task, shares: Sequence[Parts], rank: int) -> Share:
    """Lay out what one rank computes.

    Args:
        task: Makes batches.
        shares: Those of all ranks.
        rank: Which one.
    """
    missing = passes(shares) - len(shares[rank])
    if not missing:
        return Share([task.collate(part) for part in shares[rank]], [])
    lengths = task.lengths()
    shortest = min((row for parts in shares for part in parts for row in part), key=lengths.__getitem__)
    return Share([task.collate(part) for part in shares[rank]], [task.collate([shortest])] * missing)


def _tokens(parts: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return sum(lengths[row] for part in parts for row in part)
