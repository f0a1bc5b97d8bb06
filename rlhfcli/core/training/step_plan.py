"""Which examples each optimizer step takes: the same for the same seed, wherever a training begins or goes on."""

from __future__ import annotations

import math
import random

from rlhfcli.core.tasks.task import Task
from rlhfcli.core.training.rank_batches import cut, num_passes
from rlhfcli.recipe.schema import PhaseSection


def plan_steps(task: Task, phase: PhaseSection, seed: int) -> list[list[int]]:
    """Which examples each step takes: every epoch shuffled anew, the last step of an epoch may be short.

    Args:
        task: Has the examples.
        phase: Batch size, epochs, max_steps.
        seed: Same seed, same order.

    Returns:
        One list of example numbers per step.
    """
    count = len(task.lengths())
    total = math.ceil(count * phase.epochs)
    rng = random.Random(seed)
    steps: list[list[int]] = []
    taken = 0
    while taken < total:
        order = list(range(count))
        rng.shuffle(order)
        order = order[: total - taken]
        taken += len(order)
        steps += [order[i : i + phase.batch_size] for i in range(0, len(order), phase.batch_size)]
    return steps[: phase.max_steps]


def largest_micro_batch(task: Task, steps: list[list[int]], budget: int, ranks: int) -> tuple[int, list[int]]:
    """The most passes that a rank makes in a step, and the largest micro-batch of all steps.

    Args:
        task: Has the examples.
        steps: What ``plan_steps`` gave.
        budget: Tokens of a micro-batch.
        ranks: How many ranks share a step.
    """
    lengths, most, largest, size = task.lengths(), 0, [0], -1
    for shares in (cut(task, rows, budget, ranks) for rows in steps):
        most = max(most, num_passes(shares))
        for part in (part for share in shares for part in share):
            tokens = sum(lengths[row] for row in part)
            if tokens > size:
                largest, size = part, tokens
    return most, largest
