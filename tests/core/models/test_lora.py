"""LoRA: the formula, exact merging, and PEFT's format in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.models import lora, lora_files
from rlhfcli.core.models.lora import LoraLinear
from rlhfcli.core.training.lora_coverage import lora_coverage
from rlhfcli.errors import ModelError, UserError
from rlhfcli.recipe.schema import LoraSection
from tests.core import families

SETTINGS = LoraSection(rank=4, alpha=8.0)


def _trained(model: nn.Module, settings: LoraSection = SETTINGS) -> nn.Module:
    """Adapt a model as if it had been trained: B is not zero."""
    lora.inject(model, settings)
    torch.manual_seed(1)
    for _, layer in lora.adapted_layers(model):
        nn.init.normal_(layer.lora_b, std=0.05)
    if isinstance(getattr(model, "score", None), nn.Linear):
        nn.init.normal_(model.score.weight)
    return model


def _output(model: nn.Module) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 9, 33, 60, 7]])
    with torch.no_grad():
        return model(ids, attention_mask=torch.ones_like(ids)).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [nn.Linear(6, 10), Conv1D(10, 6)])
def test_forward_is_the_formula(layer: nn.Module) -> None:
    adapted = LoraLinear(layer, SETTINGS)
    nn.init.normal_(adapted.lora_b)
    x = torch.randn(3, 5, 6)
    expected = layer(x) + (8.0 / 4) * torch.einsum("ri,or,bti->bto", adapted.lora_a, adapted.lora_b, x)
    torch.testing.assert_close(adapted(x), expected)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert LoraLinear(nn.Linear(4, 4), LoraSection(rank=16, alpha=8.0, rslora=True)).scale == 2.0


def test_training_starts_from_the_unchanged_model() -> None:
    model = families.causal_lm("opt")
    before = _output(model)
    lora.inject(model, SETTINGS)
    assert torch.equal(_output(model), before)


@pytest.mark.parametrize("family", families.SIX)
def test_merged_equals_unmerged(family: str) -> None:
    model = _trained(families.causal_lm(family))
    unmerged = _output(model)
    lora.merge(model)
    assert (_output(model) - unmerged).abs().max() <= 1e-4
    lora.merge(model)  # a second time changes nothing
    lora.remove(model)
    assert (_output(model) - unmerged).abs().max() <= 1e-4
    assert not list(lora.adapted_layers(model))
    assert set(model.state_dict()) == set(families.causal_lm(family).state_dict())


@pytest.mark.parametrize("family", families.SIX)
def test_peft_loads_ours(family: str, tmp_path: Path) -> None:
    model = _trained(families.causal_lm(family))
    lora_files.save_adapter(model, tmp_path, SETTINGS, "base", "CAUSAL_LM")
    theirs = PeftModel.from_pretrained(families.causal_lm(family), str(tmp_path))
    assert (_output(theirs) - _output(model)).abs().max() <= 1e-4
    ours = families.causal_lm(family)
    lora_files.load_adapter(ours, tmp_path)
    assert torch.equal(_output(ours), _output(model))


@pytest.mark.parametrize("family", families.SIX)
def test_peft_loads_the_reward_head_with_our_adapter(family: str, tmp_path: Path) -> None:
    model = _trained(families.classifier(family))
    lora_files.save_adapter(model, tmp_path, SETTINGS, "base", "SEQ_CLS")
    theirs = PeftModel.from_pretrained(families.classifier(family, seed=0), str(tmp_path))
    assert (_output(theirs) - _output(model)).abs().max() <= 1e-4
    ours = families.classifier(family)
    lora_files.load_adapter(ours, tmp_path)
    assert torch.equal(_output(ours), _output(model))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
@pytest.mark.parametrize("rslora", [False, True])
def test_ours_loads_pefts(tmp_path: Path, targets: str | list[str], rslora: bool) -> None:
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        use_rslora=rslora,
    )
    theirs = get_peft_model(families.causal_lm("opt"), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = families.causal_lm("opt")
    lora_files.load_adapter(ours, tmp_path)
    assert (_output(theirs) - _output(ours)).abs().max() <= 1e-4


def test_only_the_update_is_trained() -> None:
    model = families.causal_lm("opt")
    names = lora.inject(model, LoraSection(rank=2, targets=["q_proj", "v_proj"]))
    assert names == [f"model.decoder.layers.{i}.self_attn.{p}" for i in (0, 1) for p in ("v_proj", "q_proj")]
    trained = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}


def test_all_linear_leaves_both_heads_alone() -> None:
    for model in (families.causal_lm("llama"), families.classifier("llama")):
        names = lora.inject(model, SETTINGS)
        assert len(names) == 14 and not any(name.endswith(("lm_head", "score")) for name in names)


def test_a_target_that_matches_nothing_is_an_error_with_the_available_names() -> None:
    with pytest.raises(UserError, match="q_projj") as caught:
        lora.inject(families.causal_lm("opt"), LoraSection(targets=["q_projj"]))
    assert "q_proj" in str(caught.value.hint) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "not an adapter folder"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no weights"),
    ],
)
def test_broken_adapter_folders(tmp_path: Path, break_it: object, message: str) -> None:
    lora_files.save_adapter(_trained(families.causal_lm("opt")), tmp_path, SETTINGS, "base", "CAUSAL_LM")
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        lora_files.load_adapter(families.causal_lm("opt"), tmp_path)


@pytest.mark.parametrize(("targets", "message"), [(["q_proj", "nope"], "called nope"), ([], "lora.targets is empty")])
def test_every_target_must_match_something(targets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lora.inject(families.causal_lm("opt"), LoraSection(targets=targets))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    lora_files.save_adapter(_trained(families.causal_lm("opt")), tmp_path, SETTINGS, "base", "CAUSAL_LM")
    with pytest.raises(UserError):
        lora_files.load_adapter(families.causal_lm("llama"), tmp_path)


COVERED = {
    ("llama", "all-linear"): "LoRA on 14 linear layers: 100.0 % of the weights in matrices",
    ("llama", "q_proj"): "LoRA on 2 linear layers: 11.1 % of the weights in matrices",
}


@pytest.mark.parametrize(("family", "targets"), COVERED)
def test_coverage_is_reported(family: str, targets: str) -> None:
    model = families.causal_lm(family)
    assert lora_coverage(model) == ""
    lora.inject(model, LoraSection(rank=2, targets=targets))
    assert lora_coverage(model) == COVERED[family, targets]


@pytest.mark.parametrize("family", ["mamba", "falcon-mamba", "mamba2", "jamba", "falcon-h1", "zamba2", "rwkv"])
def test_layers_whose_weight_the_model_multiplies_by_itself(family: str) -> None:
    """State-space layers multiply by a linear layer's weight themselves, and find it with the update."""
    model = _trained(families.causal_lm(family))
    ids = torch.tensor([[2, 5, 9, 33, 60, 7]])
    adapted = _output(model)
    model.train()(ids).logits.square().sum().backward()  # RWKV's forward pass changes weights while it evaluates
    unused = {name for name, layer in lora.adapted_layers(model) if layer.lora_b.grad is None}
    assert not {name for name in unused if "expert" not in name}
    lora.merge(model)
    assert (_output(model.eval()) - adapted).abs().max() <= 1e-4 * adapted.abs().max()


class _Router(nn.Linear):
    """A linear layer that also chooses experts, as in Llama 4."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return logits.sigmoid(), logits


def test_a_linear_layer_that_does_more_is_not_adapted() -> None:
    model = families.causal_lm("llama")
    model.model.layers[0].mlp.router = _Router(32, 4)
    assert not any("router" in name for name in lora.inject(model, SETTINGS))
    assert "not adapted: mlp.router (0.7 %; they are not plain linear layers)" in lora_coverage(model)
