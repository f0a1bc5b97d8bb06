"""The bench counts the work that it reports, and finds sizes that fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlhfcli.core.capacity import bench, useful_flops
from rlhfcli.core.models import lora
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing.last_layer import modules_of_last_layer, prunable_layers
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.recipe.schema import LoraSection, RewardSection
from tests.core import families


def dialogues():
    return [EncodedDialogue(list(range(4, 4 + n)), [(n // 2, n)]) for n in (9, 17, 12)]


def counted(module, task, batch):
    """What torch counts for the linear layers: everything but attention's batched products."""
    with FlopCounterMode(display=False) as counter:
        task.step(module, batch)["loss"].backward()
    kinds = counter.get_flop_counts()["Global"]
    return sum(count for kind, count in kinds.items() if str(kind) in ("aten.mm", "aten.addmm"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("trained", ["all", "lora"])
def test_useful_work_is_what_the_linear_layers_compute(family, trained):
    model = families.causal_lm(family)
    model.requires_grad_(True)
    if trained == "lora":
        lora.inject(model, LoraSection(rank=4))
    module = CausalLM(model)
    task = SftTask(dialogues(), "assistant", packed=False, pad_id=0)
    batch = task.collate([1])  # a single row: nothing is padded
    expected, found = counted(module, task, batch), useful_flops.useful_flops(model, batch, "sft")
    # the first layer's input needs no gradient where the embeddings are frozen, and torch's head sees all rows here
    assert found <= expected and found > (0.75 if trained == "all" else 0.5) * expected


def test_a_token_of_a_tree_counts_once():
    model = families.classifier("llama")
    pairs = [EncodedPreference.pair([5, 6, 7, 8], [9, 2], [10, 11, 2])]
    task = RewardTask(pairs, RewardSection(), packed=True, pad_id=0)
    batch = task.collate([0])
    layers = sum(weight.numel() for weight in useful_flops.linear_weights(model))
    model.requires_grad_(True)
    assert batch.layout.tokens == 9
    assert useful_flops.useful_flops(model, batch, "reward") == 6 * layers * 9


def test_the_peak_is_measured_in_operations_per_second():
    peak = useful_flops.matmul_peak([(64, 256), (256, 64)], 512, torch.float32, torch.device("cpu"))
    assert 1e8 < peak < 1e15


def test_sizes_grow_until_the_limit_or_the_end_of_the_data():
    model = families.classifier("llama")
    module = RewardModel(model)
    pairs = [EncodedPreference.pair([5] * 40 + [k % 50 + 4], [9] * 20 + [2], [10] * 30 + [2]) for k in range(60)]
    task = RewardTask(pairs, RewardSection(), packed=True, pad_id=0)
    loop = SimpleNamespace(task=task, lengths=task.lengths(), steps=[list(range(60))])
    trials = list(bench.try_sizes(loop, module, torch.device("cpu"), limit_gb=1000))
    assert [trial.tokens for trial in trials] == [512 * 2**k for k in range(len(trials))] and len(trials) > 1
    assert all(trial.used <= trial.tokens and trial.tokens_per_second > 0 for trial in trials)
    (only,) = bench.try_sizes(loop, module, torch.device("cpu"), limit_gb=0.0)
    assert only.tokens == 512


LIMITS = {
    "optimizer": ({"num_passes": 0.6, "optimizer": 0.35, "batches": 0.05}, 0.5, "token trees"),
    "building batches": ({"num_passes": 0.8, "optimizer": 0.05, "batches": 0.15}, 0.5, "token trees"),
    "padding": ({"num_passes": 0.95, "optimizer": 0.05, "batches": 0.0}, 0.5, "padded"),
    "close to what the machine can do": ({"num_passes": 0.95, "optimizer": 0.05, "batches": 0.0}, 0.8, "token trees"),
    "not a matrix multiplication": ({"num_passes": 0.95, "optimizer": 0.05, "batches": 0.0}, 0.2, "token trees"),
}


@pytest.mark.parametrize(("said", "shares", "peak", "layout"), [(k, *v) for k, v in LIMITS.items()], ids=LIMITS.keys())
def test_what_limits_is_said_in_words(said, shares, peak, layout):
    assert said in bench.what_limits({"shares": shares, "share_of_peak": peak, "layout": layout})


def test_what_the_last_layer_leaves_out_is_not_counted():
    model = families.classifier("llama")
    model.requires_grad_(True)
    pairs = [EncodedPreference.pair([5, 6, 7, 8], [9, 2], [10, 11, 2])]
    batch = RewardTask(pairs, RewardSection(), packed=True, pad_id=0).collate([0])
    names = prunable_layers(model)
    left_out = sum(layer.weight.numel() for layer in modules_of_last_layer(model, names))
    layers = sum(weight.numel() for weight in useful_flops.linear_weights(model))
    assert useful_flops.useful_flops(model, batch, "reward", names) == 6 * ((layers - left_out) * 9 + left_out * 2)
