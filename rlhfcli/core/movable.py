"""Dataclasses of tensors that go to a device as a whole, as one tensor does: ``batch.to(device)``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

AnyMovable = TypeVar("AnyMovable", bound="Movable")


class Movable:
    """Base of a dataclass of tensors, possibly nested in other such dataclasses, lists and tuples.

    Fields with ``init=False`` are left out of copies: data derived from tensors belongs to their device.
    """

    def to(self: AnyMovable, device: torch.device | str) -> AnyMovable:
        """Return a copy with every tensor on a device; tensors that are there already are shared, not copied.

        On the way to a GPU the host does not wait: tensors go through pinned memory, and the copies queue behind the
        work that the GPU has.

        Args:
            device: The device.
        """
        device = torch.device(device)
        on_gpu = device.type == "cuda"
        with torch.cuda.device(device) if on_gpu else nullcontext():  # a thread begins with the first GPU
            moved: AnyMovable = map_tensors(partial(_copied, device=device, pinned=on_gpu), self)
        return moved


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a copy of a value in which every tensor is replaced.

    Args:
        change: Returns the new tensor for an old one.
        value: A tensor; a dataclass, list or tuple of such values; or anything else, which stays as it is.
    """
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: map_tensors(change, getattr(value, name)) for name in names})
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(change, inner) for inner in value)
    return value


def _copied(tensor: Tensor, device: torch.device, pinned: bool) -> Tensor:
    tensor = tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor
    return tensor.to(device, non_blocking=pinned)
