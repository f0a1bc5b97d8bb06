"""Batches go to a device as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhfcli.core.movable import map_tensors
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.tasks.task import Task
from rlhfcli.core.training.rank_batches import RankBatches
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.recipe.schema import RewardSection


def rank_batches(phase: str, *, packed: bool) -> RankBatches:
    if phase == "sft":
        dialogues = [EncodedDialogue([5, 6, 7, 8], [(2, 4)]), EncodedDialogue([5, 6, 9], [(1, 3)])]
        task: Task = SftTask(dialogues, "assistant", packed=packed, pad_id=1)
    else:
        pairs = [EncodedPreference.pair([5, 6], [7, 8, 2], [9, 2]), EncodedPreference.pair([5], [3, 2], [4, 2])]
        task = RewardTask(pairs, RewardSection(pooling="tokenwise"), packed=packed, pad_id=1)
    return RankBatches([task.collate([0, 1])], [task.collate([1])])


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def _pinned(tensor: Tensor) -> Tensor:
    """What ``pin_memory`` does on a GPU: the same sizes and strides, then a copy into it."""
    return torch.empty_strided(tensor.size(), tensor.stride()).copy_(tensor)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_every_tensor_of_a_batch_can_be_pinned(phase: str, packed: bool) -> None:
    batches = rank_batches(phase, packed=packed)
    pinned = map_tensors(_pinned, batches)
    assert all(torch.equal(*pair) for pair in zip(tensors(pinned), tensors(batches), strict=True))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_every_tensor_of_a_batch_is_moved_and_nothing_else_changes(phase: str, packed: bool) -> None:
    batches = rank_batches(phase, packed=packed)
    moved = batches.to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert {tensor.device.type for tensor in tensors(batches)} == {"cpu"}
    assert type(moved.batches[0]) is type(batches.batches[0])
    assert (
        moved.batches[0].rows == (0, 1)
        and moved.padding_batches[0].layout.tokens == batches.padding_batches[0].layout.tokens
    )


def test_tensors_that_are_there_already_are_not_copied() -> None:
    batches = rank_batches("sft", packed=True)
    assert all(one is other for one, other in zip(tensors(batches.to("cpu")), tensors(batches), strict=True))


def test_what_was_derived_from_a_plan_is_not_copied() -> None:
    layout = rank_batches("sft", packed=True).batches[0].layout
    assert layout.plan is not None
    layout.plan.derived["flex", None] = "on the CPU"
    moved = layout.to("meta")
    assert moved.plan is not None and moved.plan.derived == {}


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_a_gpu_gets_the_same_numbers(phase: str, packed: bool) -> None:
    batches = rank_batches(phase, packed=packed)
    moved = batches.to("cuda")
    assert all(torch.equal(one.cpu(), other) for one, other in zip(tensors(moved), tensors(batches), strict=True))
