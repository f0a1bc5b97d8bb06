"""LoRA on mixtures whose experts are stacked in one parameter: the formula, merging, PEFT's format both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG
from rlhfcli.core.models import any_format, lora, lora_files, lora_targets
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.lora import LoraParameter
from rlhfcli.core.packing.layout import lay_out
from rlhfcli.core.packing.strategy import choose_strategy, computing_with
from rlhfcli.core.training import phases
from rlhfcli.core.training.lora_coverage import lora_coverage
from rlhfcli.errors import ModelError, UserError
from rlhfcli.recipe.schema import LoraSection
from tests.core import families
from tests.core.training.test_phases import _project

SETTINGS = LoraSection(rank=2, alpha=4.0)
IDS = torch.tensor([families.token_ids([17])[0], families.token_ids([17], seed=1)[0]])


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS, attention_mask=torch.ones_like(IDS)).logits  # type: ignore[no-any-return]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-4 * other.abs().max())


def _trained(family: str, settings: LoraSection = SETTINGS, kind: Any = families.causal_lm) -> Any:
    model = kind(family)
    lora.inject(model, settings)
    torch.manual_seed(1)
    for _, layer in lora.adapted_layers(model):
        nn.init.normal_(layer.lora_b, std=0.1)
    return model


@pytest.mark.parametrize("transposed", [False, True])
def test_the_update_is_the_formula(transposed: bool) -> None:
    experts = nn.Module()
    experts.is_transposed = transposed
    experts.stack = nn.Parameter(torch.randn(3, 5, 7))
    layer = LoraParameter(experts, "stack", SETTINGS)
    nn.init.normal_(layer.lora_b)
    outputs, inputs = (7, 5) if transposed else (5, 7)
    assert layer.lora_a.shape == (3 * 2, inputs) and layer.lora_b.shape == (outputs, 2 * 3)
    for e, found in enumerate(layer.delta()):
        expected = torch.zeros(outputs, inputs)
        for r in range(2):
            expected += (4.0 / 2) * torch.outer(layer.lora_b[:, r * 3 + e], layer.lora_a[e * 2 + r])
        torch.testing.assert_close(found, expected.T if transposed else expected)


@pytest.mark.parametrize("family", families.EXPERTS)
def test_experts_are_trained_merged_and_removed(family: str) -> None:
    model = families.causal_lm(family)
    names, before = set(model.state_dict()), _logits(model)
    adapted = lora.inject(model, SETTINGS)
    assert any("experts.down_proj" in name for name in adapted)
    assert torch.equal(_logits(model), before)
    model = _trained(family)
    learnt = _logits(model)
    assert (learnt - before).abs().max() > 1e-2
    model.train()(IDS).logits.square().sum().backward()
    for name, layer in lora.adapted_layers(model.eval()):
        for parameter in (layer.lora_a, layer.lora_b):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert layer.base_weight.grad is None
    lora.merge(model)
    assert _same(_logits(model), learnt)
    lora.remove(model)
    assert _same(_logits(model), learnt) and set(model.state_dict()) == names


@pytest.mark.parametrize("family", families.EXPERTS)
def test_peft_loads_ours(family: str, tmp_path: Path) -> None:
    model = _trained(family)
    lora_files.save_adapter(model, tmp_path, SETTINGS, "base", "CAUSAL_LM")
    assert any("experts" in name for name in json.loads((tmp_path / ADAPTER_CONFIG).read_text())["target_parameters"])
    theirs = PeftModel.from_pretrained(families.causal_lm(family), str(tmp_path))
    if family == "jamba":  # its state-space layers read a linear layer's weight: in PEFT without the update
        theirs = theirs.merge_and_unload()
    assert _same(_logits(theirs), _logits(model))
    ours = families.causal_lm(family)
    lora_files.load_adapter(ours, tmp_path)
    assert torch.equal(_logits(ours), _logits(model))


@pytest.mark.parametrize("family", families.EXPERTS)
@pytest.mark.parametrize("rslora", [False, True])
def test_ours_loads_pefts(family: str, rslora: bool, tmp_path: Path) -> None:
    stacks = [name for name, _ in lora_targets.expert_stacks(families.causal_lm(family))]
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["k_proj", "o_proj", "out_proj"], target_parameters=stacks, use_rslora=rslora,
        task_type="CAUSAL_LM", init_lora_weights=False,
    )  # fmt: skip
    theirs = get_peft_model(families.causal_lm(family), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = families.causal_lm(family)
    lora_files.load_adapter(ours, tmp_path)
    assert _same(_logits(ours), _logits(theirs))
    lora.merge(ours)
    lora.remove(ours)
    assert _same(_logits(ours), _logits(theirs))


@pytest.mark.parametrize("family", ["qwen2-moe", "deepseek-v3"])
def test_peft_loads_the_layers_beside_experts_that_dropout_left_out(family: str, tmp_path: Path) -> None:
    settings = LoraSection(rank=2, alpha=4.0, dropout=0.1)
    model = _trained(family, settings).eval()
    assert not any(isinstance(layer, LoraParameter) for _, layer in lora.adapted_layers(model))
    lora_files.save_adapter(model, tmp_path, settings, "base", "CAUSAL_LM")
    assert _same(_logits(PeftModel.from_pretrained(families.causal_lm(family), str(tmp_path))), _logits(model))


def test_experts_of_another_model_are_refused(tmp_path: Path) -> None:
    settings = LoraSection(rank=2, targets="experts.gate_up_proj")
    lora_files.save_adapter(_trained("mixtral", settings), tmp_path, settings, "base", "CAUSAL_LM")
    with pytest.raises(ModelError, match="none of its target_parameters"):
        lora_files.load_adapter(families.causal_lm("llama"), tmp_path)


def test_a_router_adapted_by_peft_is_read(tmp_path: Path) -> None:
    targets = ["mlp.experts.gate_up_proj", "mlp.gate.weight"]
    config = LoraConfig(r=4, target_modules=[], target_parameters=targets, init_lora_weights=False)
    theirs = get_peft_model(families.causal_lm("mixtral"), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = families.causal_lm("mixtral")
    lora_files.load_adapter(ours, tmp_path)
    assert _same(_logits(ours), _logits(theirs))


def test_a_reward_model_with_experts(tmp_path: Path) -> None:
    model = _trained("mixtral", kind=families.classifier)
    lora_files.save_adapter(model, tmp_path, SETTINGS, "base", "SEQ_CLS")
    theirs = PeftModel.from_pretrained(families.classifier("mixtral", seed=0), str(tmp_path))
    assert _same(_logits(theirs), _logits(model))


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe", "gpt-oss", "deepseek-v3"])
def test_token_trees_give_what_rows_give(family: str) -> None:
    model, strategy = _trained(family), choose_strategy(families.causal_lm(family))
    prompt, *answers = families.token_ids([11, 4, 7], seed=3)
    together = lay_out([prompt + answer for answer in answers], packed=strategy.packed, pad_id=1)
    with torch.no_grad(), computing_with(model, strategy):
        states = model.model(**together.inputs()).last_hidden_state.flatten(0, 1)
    for cells, answer in zip(together.index, answers, strict=True):
        ids = prompt + answer
        alone = model.model(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states[cells[: len(ids)]], alone, rtol=1e-4, atol=1e-4)
    assert strategy.packed


@pytest.mark.parametrize("recomputed", [False, True])
def test_deepspeed_trains_what_peft_and_a_chat_load(recomputed: bool, tmp_path: Path) -> None:
    deepspeed = {"zero_stage": 2, "config": families.DIVIDED}
    model = {"gradient_checkpointing": recomputed}
    phase = {"lora": {"rank": 4}, "max_steps": 6}
    project = _project(tmp_path, "qwen2-moe", model=model, phase=phase, deepspeed=deepspeed)
    assert phases.train_sft(project).steps == 6
    final = tmp_path / "run" / "sft" / "final"
    learnt = _logits(load_causal_lm(str(final)))
    assert not _same(learnt, _logits(families.causal_lm("qwen2-moe")))
    assert _same(_logits(PeftModel.from_pretrained(families.causal_lm("qwen2-moe"), str(final / "adapter"))), learnt)
    assert _same(_logits(any_format.load_language_model(str(final / "adapter"))), learnt)


ROUTER = "not adapted: mlp.{} ({} %; they are not plain linear layers)"
DROPOUT = "not adapted: mlp.experts.down_proj, mlp.experts.gate_up_proj ({} %; experts need lora.dropout=0)"
COVERED = {
    ("mixtral", "all-linear", 0.0): ["8 linear layers and 4 stacks of experts: 99.5", ROUTER.format("gate", 0.5)],
    ("gpt-oss", "all-linear", 0.0): ["8 linear layers and 4 stacks of experts: 99.5", ROUTER.format("router", 0.5)],
    ("gpt-oss", "all-linear", 0.1): ["8 linear layers: 11.1", ROUTER.format("router", 0.5), DROPOUT.format(88.5)],
    ("gpt-oss", "experts.down_proj", 0.0): ["2 stacks of experts: 29.5", ROUTER.format("router", 0.5)],
    ("deepseek-v3", "down_proj", 0.1): ["2 linear layers: 12.1", ROUTER.format("gate", 0.6), DROPOUT.format(29.1)],
}


@pytest.mark.parametrize(("family", "targets", "dropout"), COVERED)
def test_coverage_is_reported(family: str, targets: str, dropout: float) -> None:
    model = families.causal_lm(family)
    lora.inject(model, LoraSection(rank=2, targets=targets, dropout=dropout))
    reached, *left = COVERED[family, targets, dropout]
    assert lora_coverage(model).split(" · ") == [f"LoRA on {reached} % of the weights in matrices", *left]


def test_experts_alone_cannot_have_dropout() -> None:
    with pytest.raises(UserError, match="called gate_up_proj") as caught:
        lora.inject(families.causal_lm("mixtral"), LoraSection(targets=["q_proj", "gate_up_proj"], dropout=0.1))
    assert "Experts can be adapted with lora.dropout=0 only." in str(caught.value.hint)


@pytest.mark.parametrize("value", ["mlp.experts.down_proj", [1], {"a": 1}])
def test_target_parameters_that_are_not_names(value: Any, tmp_path: Path) -> None:
    lora_files.save_adapter(_trained("mixtral"), tmp_path, SETTINGS, "base", "CAUSAL_LM")
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text()) | {"target_parameters": value}
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="target_parameters cannot be"):
        lora_files.load_adapter(families.causal_lm("mixtral"), tmp_path)
