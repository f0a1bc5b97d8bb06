"""What several ranks do together, besides DeepSpeed's own work. With one rank all of it is free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from rlhfcli.core.parallel.process_group import ensure_process_group

_LONG = timedelta(days=7)  # preparing data, or measuring, may take the first rank as long as it wants
Made = TypeVar("Made")
_waiting: Any = None  # a group of its own: the usual one gives up after half an hour


def world_size() -> int:
    """Number of ranks, also before they have found each other."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which rank this process is; alone it is 0, whatever a shell has left in ``RANK``."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK") or 0) if world_size() > 1 else 0


def meet() -> None:
    """Wait until all ranks have come this far; the first time, let them find each other."""
    global _waiting
    ensure_process_group()
    if world_size() == 1:
        return
    if _waiting is None:
        _waiting = dist.new_group(backend="gloo", timeout=_LONG)
    dist.barrier(group=_waiting)


def from_first(found: Made) -> Made:
    """What the first rank has found, on all ranks: where each would look for itself, they might see different things.

    Args:
        found: The first rank's; of the others it does not count.
    """
    if world_size() == 1:
        return found
    meet()
    box = [found]
    dist.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums over all ranks.

    Args:
        values: This rank's; every rank has as many.
        device: Where the ranks exchange numbers.

    Returns:
        The same on every rank.
    """
    return _reduced(values, device, dist.ReduceOp.SUM)


def highest(values: Sequence[float], device: torch.device) -> list[float]:
    """The highest of each value over all ranks; see ``summed``."""
    return _reduced(values, device, dist.ReduceOp.MAX)


def _reduced(values: Sequence[float], device: torch.device, how: Any) -> list[float]:
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total, how)
    reduced: list[float] = total.tolist()
    return reduced
