"""Sharing the micro-batches of a step, or of an evaluation, among the ranks.

The rows of a step do not depend on the number of ranks: all ranks know them, cut them in the same way, and each takes
its share. Stages 2 and 3 of ZeRO exchange something in every pass, so every rank has to make as many passes as the
others: one that has fewer micro-batches adds passes over a small one, with zero weight.
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

Parts = list[list[int]]  # rows of each micro-batch
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
        task: Has the examples; cuts those with a common beginning into the same micro-batch.
        rows: Numbers of the examples.
        budget: Maximum number of tokens of a micro-batch.
        ranks: Number of ranks.

    Returns:
        The micro-batches of each rank; every row is in one of them.
    """
    lengths = task.lengths()
    if ranks == 1:
        return [task.cut(rows, budget)]
    tokens, longest = sum(lengths[row] for row in rows), max(lengths[row] for row in rows)
    even = math.ceil(tokens / ranks / math.ceil(tokens / ranks / budget))
    # micro-batches are seldom full: a slightly larger budget often needs fewer of them
    tried = {min(budget, even + extra) for extra in (0, longest // 2, longest)}
    divisions = [divide(task.cut(rows, room), lengths, ranks) for room in sorted(tried)]
    return min(divisions, key=lambda shares: (num_passes(shares), max(_tokens(parts, lengths) for parts in shares)))


def divide(parts: Parts, lengths: Sequence[int], ranks: int) -> list[Parts]:
    """Distribute micro-batches: the largest first, each to the rank with the fewest tokens so far.

    Args:
        parts: Rows of each micro-batch.
        lengths: Number of tokens of every row.
        ranks: Number of ranks.

    Returns:
        The micro-batches of each rank.
    """
    shares: list[Parts] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for part in sorted(parts, key=lambda part: -_tokens([part], lengths)):
        least = min(range(ranks), key=lambda rank: (load[rank], len(shares[rank])))
        shares[least].append(part)
        load[least] += _tokens([part], lengths)
    return shares


def num_passes(shares: Sequence[Parts]) -> int:
    """Return the number of passes that every rank makes.

    Args:
        shares: The micro-batches of each rank.
    """
    return max(len(parts) for parts in shares)


def batches_of_rank(task: Task, shares: Sequence[Parts], rank: int) -> RankBatches:
    """Lay out the batches of one rank.

    Args:
        task: Lays out batches.
        shares: The micro-batches of each rank.
        rank: Number of the rank.
    """
    missing = num_passes(shares) - len(shares[rank])
    if not missing:
        return RankBatches([task.collate(part) for part in shares[rank]], [])
    lengths = task.lengths()
    shortest = min((row for parts in shares for part in parts for row in part), key=lengths.__getitem__)
    return RankBatches([task.collate(part) for part in shares[rank]], [task.collate([shortest])] * missing)


def prefetch(make: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """Map a function over items, and make each result in the background while the one before it is used.

    Args:
        make: A function that does not depend on what is done with its results.
        items: Its arguments.

    Yields:
        The results in order. An error of ``make`` is raised when its result is due.
    """
    waiting: Future[Made] | None = None
    for item in items:
        made, waiting = waiting.result() if waiting else None, _in_background(make, item)
        if made is not None:
            yield made
    if waiting:
        yield waiting.result()


def _in_background(make: Callable[[Given], Made], item: Given) -> Future[Made]:
    """Make a result in a daemon thread; Python would wait at its end for that of a ``ThreadPoolExecutor``."""
    future: Future[Made] = Future()

    def work() -> None:
        try:
            future.set_result(make(item))
        except BaseException as error:  # raised by ``Future.result``
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="batches").start()
    return future


def _tokens(parts: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return sum(lengths[row] for part in parts for row in part)
