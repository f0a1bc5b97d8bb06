"""How the micro-batches of a step, or of an evaluation, are shared among the ranks.

The step decides what belongs together, not the number of ranks: all ranks know all rows of a step, cut them in the same
way, and each takes its share. Stages 2 and 3 of ZeRO exchange something in every pass, so every rank has to make as
many passes as the others: one that has fewer micro-batches adds passes over a small one, with zero weight.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from rlhfcli.core.movable import Movable
from rlhfcli.core.tasks.task import Batch, Task

Parts = list[list[int]]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class RankBatches(Movable):
    """The micro-batches that one rank computes in a step or an evaluation.

    Args:
        batches: Micro-batches that count.
        padding_batches: Further passes with zero weight, so that all ranks make the same number of passes.
    """

    batches: list[Batch]
    padding_batches: list[Batch]


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
    return min(divisions, key=lambda shares: (num_passes(shares), max(_tokens(parts, lengths) for parts in shares)))


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


def num_passes(shares: Sequence[Parts]) -> int:
    """How many passes every rank makes."""
    return max(len(parts) for parts in shares)


def batches_of_rank(task: Task, shares: Sequence[Parts], rank: int) -> RankBatches:
    """Lay out what one rank computes.

    Args:
        task: Makes batches.
        shares: Those of all ranks.
        rank: Which one.
    """
    missing = num_passes(shares) - len(shares[rank])
    if not missing:
        return RankBatches([task.collate(part) for part in shares[rank]], [])
    lengths = task.lengths()
    shortest = min((row for parts in shares for part in parts for row in part), key=lengths.__getitem__)
    return RankBatches([task.collate(part) for part in shares[rank]], [task.collate([shortest])] * missing)


def prefetch(make: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """``map``, but each result is made in the background while the one before it is used.

    Args:
        make: Does not depend on what is done with its results.
        items: What it takes.

    Yields:
        The results in order. What ``make`` raises is raised here when its result is due.
    """
    waiting: Future[Made] | None = None
    for item in items:
        made, waiting = waiting.result() if waiting else None, _in_background(make, item)
        if made is not None:
            yield made
    if waiting:
        yield waiting.result()


def _in_background(make: Callable[[Given], Made], item: Given) -> Future[Made]:
    """In a thread for this one result, which nobody has to end: a pool's would be waited for when the program ends."""
    future: Future[Made] = Future()

    def work() -> None:
        try:
            future.set_result(make(item))
        except BaseException as error:  # told to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="batches").start()
    return future


def _tokens(parts: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return sum(lengths[row] for part in parts for row in part)
