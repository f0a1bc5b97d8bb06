"""The arithmetic of ``--dry-run`` against sums done by hand."""

from __future__ import annotations

import pytest

from rlhfcli.core.capacity import memory_model
from rlhfcli.core.capacity.memory_model import GROUP, PROGRAM, Files, Needs, estimate

FULL = Needs(trained=1000, frozen=0, buffers=10, activations=50_000, gpu=True)
LORA = Needs(trained=100, frozen=1000, buffers=0, activations=7_000)


@pytest.mark.parametrize(
    ("stage", "ranks", "parameters", "gradients", "optimizer", "buckets"),
    [
        (0, 1, 4000, 4000, 8000, 0),
        (0, 4, 4000, 4000, 8000, 0),
        (1, 1, 4000, 4000, 12000, 1),
        (2, 4, 4000, 1000, 3000, 1),
        (3, 4, 1000 + 4000, 1000, 3000, 2),
    ],
)
def test_full_fine_tuning_on_gpus(stage, ranks, parameters, gradients, optimizer, buckets):
    found = estimate(FULL, stage, ranks)
    assert (found.parameters, found.gradients, found.optimizer) == (parameters, gradients, optimizer)
    assert found.other == 4 * GROUP * buckets and found.activations == 50_010 and found.host == 0
    assert found.device == parameters + gradients + optimizer + 50_010 + 4 * GROUP * buckets


def test_what_is_frozen_has_no_gradient_and_no_moments():
    found = estimate(LORA, 0, 2)
    assert (found.parameters, found.gradients, found.optimizer) == (4400, 400, 800)
    assert estimate(LORA, 3, 2).parameters == 2200 + 4400


def test_on_a_cpu_a_bucket_takes_what_is_used_of_it_and_the_program_counts():
    assert estimate(LORA, 0, 1).other == PROGRAM["fp32"]
    assert estimate(LORA, 2, 2).other == 400 + PROGRAM["fp32"]
    assert estimate(Needs(100, 1000, 0, 7_000, bf16=True), 3, 2).other == 800 + PROGRAM["bf16"]


def test_the_optimizer_step_takes_the_place_of_small_activations():
    small = Needs(trained=1000, frozen=0, buffers=0, activations=100)
    assert [estimate(small, stage, 2).activations for stage in memory_model.STAGES] == [100, 2000, 2000, 6000]


def test_only_so_many_parameters_are_whole_at_stage_3():
    large = Needs(trained=7_000_000_000, frozen=0, buffers=0, activations=0, gpu=True)
    assert estimate(large, 3, 8).parameters == 3.5e9 + 4e9


@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_offloaded_is_on_the_host_and_nowhere_else(stage):
    here, moved = estimate(FULL, stage, 2), estimate(FULL, stage, 2, "optimizer")
    assert moved.host == here.gradients + here.optimizer == 2000 + 6000
    assert moved.device == here.device - moved.host


def test_stage_3_has_gradients_on_the_device_too():
    moved = estimate(FULL, 3, 2, "optimizer")
    assert (moved.gradients, moved.optimizer, moved.host, moved.files) == (2000, 0, 2000 + 6000, 0)


def test_all_of_stage_3_can_be_offloaded_but_what_is_whole():
    moved = estimate(FULL, 3, 2, "all")
    assert (moved.parameters, moved.host) == (4000, 2000 + 2000 + 6000)


def test_of_what_lies_in_files_the_host_has_the_buffers():
    """1,000 numbers trained by two ranks are 500 each, less than a group; the largest parameter has 100."""
    files = Files("", largest=100, buffers=7)
    states, everything = (estimate(FULL, 3, 2, offload, files) for offload in ("optimizer", "all"))
    assert (states.host, states.files) == (4 * 4 * 500, 2000 + 6000)
    assert (everything.host, everything.files) == (4 * (4 * 500 + 500 + 7 * 50), 2000 + 2000 + 6000)
    large = Needs(trained=7 * GROUP, frozen=0, buffers=0, activations=0)
    assert estimate(large, 3, 1, "optimizer", files).host == 4 * 4 * (GROUP + 100)
    assert estimate(FULL, 2, 2, "optimizer", files) == estimate(FULL, 2, 2, "optimizer")


@pytest.mark.parametrize(("stage", "offload"), [(0, "optimizer"), (1, "all"), (2, "all")])
def test_a_stage_that_cannot_offload_says_so(stage, offload):
    with pytest.raises(ValueError, match=f"stage {stage} does not offload {offload}"):
        estimate(FULL, stage, 2, offload)
