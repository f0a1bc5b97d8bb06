"""What the ranks exchange besides DeepSpeed's own messages. With one rank nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlhfcli.core.parallel.own_rank import world_size
from rlhfcli.core.parallel.process_group import ensure_process_group, exchange_device, patient_group

Value = TypeVar("Value")


def meet() -> None:
    """Wait until all ranks have come this far; the first time, let them find each other."""
    ensure_process_group()
    if world_size() > 1:
        dist.barrier(group=patient_group())


def from_first(value: Value) -> Value:
    """Return the first rank's value on all ranks: each might see something else on its own disk.

    Args:
        value: The value of this rank; only the first rank's is used.
    """
    if world_size() == 1:
        return value
    meet()
    box = [value]
    dist.broadcast_object_list(box, src=0, group=patient_group())
    return box[0]


def summed(values: Sequence[float]) -> list[float]:
    """Return the sum of each value over all ranks, on every rank.

    Args:
        values: The values of this rank; every rank has the same number of them.
    """
    return _reduced(values, dist.ReduceOp.SUM)


def highest(values: Sequence[float]) -> list[float]:
    """Return the maximum of each value over all ranks, on every rank.

    Args:
        values: The values of this rank; every rank has the same number of them.
    """
    return _reduced(values, dist.ReduceOp.MAX)


def gathered_from_all(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all ranks in order, on the CPU of every rank.

    Args:
        tensor: The tensor of this rank; of the same shape on every rank.
    """
    if world_size() == 1:
        return [tensor]
    own = tensor.to(exchange_device())
    tensors = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(tensors, own)
    return [each.cpu() for each in tensors]


def _reduced(values: Sequence[float], operation: Any) -> list[float]:
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=exchange_device())
    dist.all_reduce(total, operation)
    reduced: list[float] = total.tolist()
    return reduced
