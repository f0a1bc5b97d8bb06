"""Plan which examples each optimizer step takes: the same for the same seed, also after a resume."""

from __future__ import annotations

import math
import random

from rlhfcli.core.tasks.task import Task
from rlhfcli.core.training.rank_batches import cut, num_passes
from rlhfcli.recipe.schema import PhaseSection


def plan_steps(task: Task, phase: PhaseSection, seed: int) -> list[list[int]]:
    """Plan the steps: every epoch is shuffled again, and its last step may have fewer examples.

    Args:
        task: Has the examples.
        phase: Section with ``batch_size``, ``epochs`` and ``max_steps``.
        seed: Seed of the order.

    Returns:
        The numbers of the examples of each step.
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
    """Find the largest micro-batch of all steps, and the largest number of passes that a rank makes in a step.

    Args:
        task: Has the examples.
        steps: The examples of each step, from ``plan_steps``.
        budget: Maximum number of tokens of a micro-batch.
        ranks: Number of ranks that share a step.

    Returns:
        The number of passes, and the rows of the micro-batch.
    """
    lengths, most, largest, size = task.lengths(), 0, [0], -1
    for shares in (cut(task, rows, budget, ranks) for rows in steps):
        most = max(most, num_passes(shares))
        for part in (part for share in shares for part in share):
            tokens = sum(lengths[row] for row in part)
            if tokens > size:
                largest, size = part, tokens
    return most, largest
