"""The last layer computes only the needed tokens: the same states, the same gradients, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV3Config

from rlhfcli.core.families.backbone import head_is_apart
from rlhfcli.core.models import lora
from rlhfcli.core.packing.last_layer import needed_tokens, prunable_layers, prune_last_layer
from rlhfcli.core.packing.layout import lay_out
from rlhfcli.core.packing.stand_in import make_stand_in
from rlhfcli.core.packing.strategy import choose_strategy, computing_with
from rlhfcli.recipe.schema import LoraSection
from tests.core import families

SEQUENCES = families.token_ids([19, 7, 12], seed=5)


def _states_and_gradients(model: Any, rows: Tensor, needed: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    strategy = choose_strategy(model)
    layout = lay_out(SEQUENCES, packed=strategy.packed, pad_id=0)
    model.zero_grad()
    with computing_with(model, strategy), needed_tokens(model, needed, layout.input_ids.numel()):
        backbone = getattr(model, model.base_model_prefix)
        states = backbone(**layout.inputs()).last_hidden_state.flatten(0, 1)[rows]
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return states.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_needed_states_and_all_gradients_are_the_same(family: str) -> None:
    model, rows = families.causal_lm(family), torch.tensor([18, 3, 11])
    assert prunable_layers(model)
    expected, gradients = _states_and_gradients(model, rows, None)
    states, found = _states_and_gradients(model, rows, rows)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = gradients[name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (found[name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("opt", {"self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"}),
        ("llama", {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("gpt2", {"attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ],
)
def test_keys_and_values_are_never_left_out(family: str, expected: set[str]) -> None:
    assert set(prunable_layers(families.causal_lm(family))) == expected


def test_rows_that_are_not_needed_are_not_computed() -> None:
    model = families.causal_lm("llama")
    seen = []
    down = model.model.layers[-1].mlp.down_proj
    with prune_last_layer(model, prunable_layers(model)):
        down.register_forward_hook(lambda _, args, result: seen.append(result))
        with needed_tokens(model, torch.tensor([2, 5]), tokens=9):
            model(torch.arange(9)[None])
        model(torch.arange(9)[None])  # without needed tokens all are computed
    assert seen[0][0].abs().sum(1).nonzero().flatten().tolist() == [2, 5]
    assert seen[1][0].abs().sum(1).count_nonzero() == 9
    assert "forward" not in vars(down)


def test_where_most_tokens_are_needed_all_are_computed() -> None:
    model = families.causal_lm("llama")
    with prune_last_layer(model, prunable_layers(model)), needed_tokens(model, torch.tensor([0, 1, 2, 4]), tokens=5):
        states = model.model(torch.arange(5)[None]).last_hidden_state
    torch.testing.assert_close(states, model.model(torch.arange(5)[None]).last_hidden_state)


@pytest.mark.parametrize("family", ["opt", "qwen2-moe", "deepseek-v3", "gpt-oss"])
def test_adapted_layers_can_be_pruned(family: str) -> None:
    model, rows = families.causal_lm(family), torch.tensor([4, 10])
    names = prunable_layers(model)
    lora.inject(model, LoraSection())
    for _, layer in lora.adapted_layers(model):
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    expected, gradients = _states_and_gradients(model, rows, None)
    states, found = _states_and_gradients(model, rows, rows)
    assert names
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("zero", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_zero_weights_do_not_mislead_the_trial(zero: str) -> None:
    """With these, keys or values of other tokens do not matter yet; after the first step they do."""
    model = families.causal_lm("llama")
    expected = prunable_layers(model)
    with torch.no_grad():
        model.model.layers[-1].get_submodule(zero).weight.zero_()
    assert prunable_layers(model) == expected


def test_a_layer_that_sees_some_tokens_alone_computes_them_all() -> None:
    model = families.causal_lm("llama")
    down = model.model.layers[-1].mlp.down_proj
    x = torch.randn(1, 5, 64)
    with prune_last_layer(model, prunable_layers(model)), needed_tokens(model, torch.tensor([2]), tokens=9):
        assert torch.equal(down(x), torch.nn.functional.linear(x, down.weight))


def test_the_trial_changes_neither_weights_nor_the_generator() -> None:
    model = families.causal_lm("opt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    prunable_layers(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("tried", [prunable_layers, head_is_apart])
def test_running_out_of_memory_in_a_trial_is_raised(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.causal_lm("llama")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(type(model.model), "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        tried(model)


def test_the_trial_on_a_stand_in_counts_only_for_the_same_kind_of_last_layer() -> None:
    """DeepSeek's first layer is dense, its last one has experts: their linear layers have other names."""
    config = DeepseekV3Config(
        **families.NEW, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=8,
        q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1,
        moe_intermediate_size=16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    small = make_stand_in(AutoModelForCausalLM, config, trust_remote_code=False)
    assert choose_strategy(small).pruned_layers and not choose_strategy(model, stand_in=small).pruned_layers
    llama = families.causal_lm("llama")
    small = make_stand_in(AutoModelForCausalLM, llama.config, trust_remote_code=False)
    assert choose_strategy(llama, stand_in=small) == choose_strategy(small)


def test_nothing_is_pruned_where_activations_are_recomputed() -> None:
    model = families.causal_lm("llama")
    assert choose_strategy(model).pruned_layers and not choose_strategy(model, recomputed=True).pruned_layers
