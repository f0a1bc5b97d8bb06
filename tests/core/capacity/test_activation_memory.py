"""Fake tensors find the parameters of the real model, and the memory that autograd really keeps."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig

from rlhfcli.cli.views import memory_view
from rlhfcli.cli.views.tables import memory_tables
from rlhfcli.core.capacity import activation_memory
from rlhfcli.core.capacity import dry_run as dry
from rlhfcli.core.capacity.memory_model import Needs, estimate
from rlhfcli.core.models import loading as models
from rlhfcli.core.packing.strategy import Strategy
from rlhfcli.core.training import parts
from tests.core import families
from tests.core.training.test_phases import _project

NOWHERE = {"deepspeed": {"zero_stage": 2}}


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
@pytest.mark.parametrize("family", [*families.FAMILIES, "mixtral", "gpt-oss"])
def test_parameters_and_layouts_are_those_of_the_real_model(tmp_path, family, lora):
    project = _project(tmp_path, family, phase={"lora": lora}, reward={"init_from": "base"}, **NOWHERE)
    for name, parts_of in (("sft", parts.sft_parts), ("reward", parts.reward_parts)):
        found, real = dry.dry_run(project, name, 2, 2), parts_of(project)
        assert (found["parameters"], found["trained"]) == models.parameter_counts(real.module)
        assert (found["layout"] == "token trees") == real.tasks[0].packed
        assert found["zero_stage"] == 2 and found["prepared"]
    assert not (tmp_path / "run").exists()  # nothing is written
    json.dumps(found)


class Chain(torch.nn.Module):
    """``loss = sum(W3 tanh(W2 tanh(W1 x)))``: what backward needs is known."""

    model = SimpleNamespace(config=LlamaConfig())

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = layer(x).tanh()
        return self.layers[-1](x).sum()


class Given:
    """A task and its batch in one."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> torch.Tensor:
        return self.x.to(device)

    def step(self, forward, x):
        return {"loss": forward(x)}


def test_the_most_that_is_alive_is_counted():
    rows, width = 1024, 16
    with activation_memory.fake_tensors():
        module = Chain(width)
    task = Given(torch.zeros(rows, width))
    found = activation_memory.activation_bytes(module, task, task, strategy=Strategy(None), checkpointing=False)
    one = 4 * rows * width
    # two results of tanh stay; the last layer's gradient, and those of its input and of tanh's, come on top
    assert 4 * one <= found <= 6 * one


def test_checkpointing_keeps_less_and_more_tokens_keep_more(tmp_path):
    project = _project(tmp_path, "llama", phase={"micro_batch_tokens": 256}, reward={"init_from": "base"})
    again = replace(
        project,
        recipe=project.recipe.model_copy(
            update={"model": project.recipe.model.model_copy(update={"gradient_checkpointing": True})}
        ),
    )
    sizes = [dry.dry_run(each, "sft", 1, 1)["stages"][0]["activations"] for each in (project, again)]
    assert sizes[1] < 0.7 * sizes[0]
    more_ranks = dry.dry_run(project, "sft", 4, 4)
    assert more_ranks["stages"][0]["activations"] < 0.5 * sizes[0]  # a rank has a smaller share of a step


def test_data_that_is_not_prepared_is_assumed_to_fill_the_micro_batch(tmp_path):
    project = _project(tmp_path, data=dry.Assumed(96, 32, families.VOCABULARY), phase={"micro_batch_tokens": 96})
    found = dry.dry_run(project, "sft", 1, 1)
    assert found["micro_batch"] == {"tokens": 96, "examples": 3, "read": 93} and not found["prepared"]
    pairs = dry.Assumed(96, 32, families.VOCABULARY).pairs("train")
    assert len(pairs) == 3 and all(len(pair.sequences[0]) == 20 for pair in pairs)


def test_what_is_offloaded_has_to_fit_as_well_where_there_is_one_memory():
    moved = estimate(Needs(trained=1000, frozen=0, buffers=0, activations=0), 3, 2, "all")
    assert moved.host > 0
    assert dry.needed(moved, gpu=True) == moved.device
    assert dry.needed(moved, gpu=False) == moved.device + moved.host


def test_the_table_says_what_is_offloaded(tmp_path):
    project = _project(tmp_path, deepspeed={"zero_stage": 3, "offload": "all"})
    result = dry.dry_run(project, "sft", 2, 2)
    note = memory_view.table(result).note
    assert re.search(r"Offloaded to the host's memory, for each rank besides: [1-9][\d.]* kB at stage 3\.", note)
    table = memory_view.table(result)
    assert table.columns[0].name == "ZeRO stage, MB"  # in gigabytes the model would be nothing
    assert [column.name for column in table.columns[1:]] == ["0", "1", "2", "3 (recipe)"]
    rows = {label: figures for label, *figures in table.rows}
    assert float(rows["+ other"][0].replace(",", "")) >= 300  # the program itself counts
    screen = Console(width=80, file=io.StringIO())
    screen.print(memory_tables([result]))
    lines = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["=", "in", "all", *rows["= in all"]] in lines and ["fits"] * 4 in lines
    plain = dry.dry_run(_project(tmp_path, deepspeed={"zero_stage": 3}), "sft", 2, 2)
    assert "Offloaded" not in memory_view.table(plain).note
