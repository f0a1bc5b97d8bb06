"""From a recipe to DeepSpeed's configuration; that the engine takes it is in ``test_engine``."""

from __future__ import annotations

from typing import Any

import pytest

from rlhfcli.core.deepspeed_config import configuration, in_effect, merged
from rlhfcli.recipe.schema import Deepspeed


def zero(*, cuda: bool = False, files: str = "", **keys: Any) -> dict[str, Any]:
    return configuration(Deepspeed(**keys), 1.0, cuda=cuda, files=files)["zero_optimization"]


@pytest.mark.parametrize(("stage", "overlaps"), [(1, False), (2, True), (3, True)])
def test_communication_overlaps_where_there_is_a_second_stream(stage: int, overlaps: bool) -> None:
    assert zero(zero_stage=stage, cuda=True)["overlap_comm"] is overlaps
    assert zero(zero_stage=stage, cuda=False)["overlap_comm"] is False
    assert zero(zero_stage=stage, cuda=True)["contiguous_gradients"] is True


@pytest.mark.parametrize("cuda", [False, True])
def test_what_is_offloaded(cuda: bool) -> None:
    memory = {"device": "cpu", "pin_memory": cuda}
    files = {"device": "nvme", "pin_memory": cuda, "nvme_path": "/fast/rlhf-x"}
    for offload, path, states, parameters in (
        ("none", "", None, None),
        ("optimizer", "", memory, None),
        ("all", "", memory, memory),
        ("optimizer", "/fast/rlhf-x", files, None),
        ("all", "/fast/rlhf-x", files, memory),
    ):
        found = zero(zero_stage=3, offload=offload, cuda=cuda, files=path)
        assert found.get("offload_optimizer") == states
        assert found.get("offload_param") == parameters


def test_raw_keys_lie_over_ours() -> None:
    raw = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 7}, "steps_per_print": 3}
    config = configuration(Deepspeed(zero_stage=2, config=raw), 0.5, cuda=False)
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
    assert in_effect(Deepspeed(**keys), ranks).zero_stage == stage
