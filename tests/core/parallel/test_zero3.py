"""Stage 3: no rank ever holds the whole model, and the partitions are those of the model in the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhfcli.core.engine.engine import parameter_groups
from rlhfcli.core.models.loading import load_causal_lm, parameter_counts
from rlhfcli.core.models.lora import inject
from rlhfcli.core.parallel.zero3 import gathered, is_partitioned, loading, shape_of
from rlhfcli.recipe.schema import DeepspeedSection, LoraSection
from tests.core import families
from tests.core.parallel.test_ranks import ROOT


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_each_of_two_ranks_holds_half(tmp_path: Path, family: str) -> None:
    model = families.causal_lm(family)
    model.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    alone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in os.environ.items() if key not in alone} | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "-m", "tests.core.partition_worker", str(tmp_path)], cwd=ROOT, env=environment, check=True,
        capture_output=True, timeout=200,
    )  # fmt: skip
    total = parameter_counts(model)[0]
    for number in (0, 1):
        found = json.loads((tmp_path / f"{number}.json").read_text())
        assert found["in_pieces"] and found["same"] and found["shapes"] and not found["afterwards"]
        assert found["counts"] == [total, total]
        assert found["in_place"] == 0
        assert total / 2 <= found["held"] <= total / 2 + len(list(model.parameters()))  # each is cut, and filled up


def test_what_looks_at_shapes_before_the_engine_sees_whole_ones(tmp_path: Path) -> None:
    families.causal_lm("opt").save_pretrained(tmp_path)
    plain = load_causal_lm(str(tmp_path))
    with loading(DeepspeedSection(zero_stage=3), 1.0):
        model = load_causal_lm(str(tmp_path))
    assert is_partitioned(model) and not is_partitioned(plain)
    sizes = [[len(group["params"]) for group in parameter_groups(each, 0.1)] for each in (plain, model)]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 2
    names = [inject(each, LoraSection(rank=3)) for each in (plain, model)]
    assert names[0] == names[1]
    layers = [dict(each.named_parameters()) for each in (plain, model)]
    for name, parameter in layers[0].items():
        assert shape_of(layers[1][name]) == parameter.shape, name


def test_what_is_changed_while_it_is_whole_stays(tmp_path: Path) -> None:
    families.causal_lm("llama").save_pretrained(tmp_path)
    with loading(DeepspeedSection(zero_stage=3), 1.0):
        model = load_causal_lm(str(tmp_path))
    norm = model.model.norm.weight
    with gathered([norm]), torch.no_grad():
        norm.fill_(7.0)
    assert norm.numel() == 0
    with gathered([norm]):
        assert norm.tolist() == [7.0] * 32


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_other_stages_load_whole_models(tmp_path: Path, stage: int) -> None:
    families.causal_lm("llama").save_pretrained(tmp_path)
    with loading(DeepspeedSection(zero_stage=stage), 1.0):
        assert not is_partitioned(load_causal_lm(str(tmp_path)))
