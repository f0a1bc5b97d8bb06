"""From a recipe to DeepSpeed's configuration; that the engine accepts it is in ``test_engine``."""

from __future__ import annotations

from typing import Any

import pytest

from rlhfcli.core.parallel.deepspeed_config import GROUP, Files, configuration, effective_stage, merged
from rlhfcli.recipe.schema import DeepspeedSection


def zero(*, cuda: bool = False, files: Files | None = None, ranks: int = 1, **keys: Any) -> dict[str, Any]:
    return configuration(DeepspeedSection(**keys), 1.0, cuda=cuda, files=files, ranks=ranks)["zero_optimization"]


@pytest.mark.parametrize(("stage", "overlaps"), [(1, False), (2, True), (3, True)])
def test_communication_overlaps_where_there_is_a_second_stream(stage: int, overlaps: bool) -> None:
    assert zero(zero_stage=stage, cuda=True)["overlap_comm"] is overlaps
    assert zero(zero_stage=stage, cuda=False)["overlap_comm"] is False
    assert zero(zero_stage=stage, cuda=True)["contiguous_gradients"] is True


@pytest.mark.parametrize("cuda", [False, True])
def test_what_is_offloaded(cuda: bool) -> None:
    memory = {"device": "cpu", "pin_memory": cuda}
    for offload, states, parameters in (("none", None, None), ("optimizer", memory, None), ("all", memory, memory)):
        found = zero(zero_stage=3, offload=offload, cuda=cuda)
        assert found.get("offload_optimizer") == states
        assert found.get("offload_param") == parameters
        assert found["sub_group_size"] == found["reduce_bucket_size"] == GROUP


def test_what_is_offloaded_to_files() -> None:
    place = {"device": "nvme", "nvme_path": "/fast/rlhf-x"}
    states = zero(zero_stage=3, offload="optimizer", files=Files("/fast/rlhf-x"))
    assert states["offload_optimizer"] == place
    assert "offload_param" not in states and "stage3_prefetch_bucket_size" not in states
    found = zero(zero_stage=3, offload="all", files=Files("/fast/rlhf-x", largest=10, buffers=7), ranks=4)
    assert found["offload_optimizer"] == place
    buffers = {"buffer_size": 3, "buffer_count": 7, "max_in_cpu": 0}  # the last of four pieces of ten is short
    assert found["offload_param"] == place | buffers
    assert found["stage3_prefetch_bucket_size"] == found["stage3_max_reuse_distance"] == 0


def test_raw_keys_lie_over_ours() -> None:
    raw = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 7}, "steps_per_print": 3}
    config = configuration(DeepspeedSection(zero_stage=2, config=raw), 0.5, cuda=False)
    assert config["steps_per_print"] == 3 and config["gradient_clipping"] == 0.5
    found = config["zero_optimization"]
    assert (found["stage"], found["overlap_comm"], found["reduce_bucket_size"]) == (2, True, 7)


def test_merging_leaves_both_as_they_were() -> None:
    below, above = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": {"x": 2}}, "d": {"e": 3}}
    assert merged(below, above) == {"a": {"b": {"x": 2}, "c": [1]}, "d": {"e": 3}}
    merged(below, above)["a"]["c"].append(2)
    assert (below, above) == ({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": {"x": 2}}, "d": {"e": 3}})


@pytest.mark.parametrize(
    ("keys", "ranks", "stage"),
    [
        ({"zero_stage": 0}, 1, 0),
        ({"zero_stage": 1}, 1, 0),
        ({"zero_stage": 2}, 1, 0),
        ({"zero_stage": 3}, 1, 3),  # which holds a model in pieces, also alone
        ({"zero_stage": 1}, 2, 1),
        ({"zero_stage": 2}, 8, 2),
        ({"zero_stage": 2, "offload": "optimizer"}, 1, 2),
        ({"zero_stage": 1, "config": {"zero_optimization": {"round_robin_gradients": True}}}, 1, 1),
    ],
)
def test_one_rank_alone_has_nothing_to_divide(keys: dict[str, Any], ranks: int, stage: int) -> None:
    assert effective_stage(DeepspeedSection(**keys), ranks) == stage
