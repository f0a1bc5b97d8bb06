"""Token trees are exact: same results and gradients as one sequence at a time, in every family that computes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhfcli.core.models.loading import recomputed_activations
from rlhfcli.core.packing import layout, probes
from rlhfcli.core.token_trees import tree_attention_cpu
from rlhfcli.core.token_trees.attention_plan import make_plan
from rlhfcli.core.token_trees.forest import build_forest
from rlhfcli.core.token_trees.tree_attention import TREES, attention, tree_attention
from tests.core import families

PACKED = [name for name in families.FAMILIES if name not in families.PADDED]


def _forests() -> dict[str, list[list[int]]]:
    apart = families.token_ids([7, 19, 3, 1, 12, 19])
    prompt, *answers = families.token_ids([11, 4, 7, 1, 9, 2, 5, 5, 3], seed=3)
    long, *ends = families.token_ids([45, 70, 40, 9], seed=4)
    return {
        "apart": apart,
        "two answers": [prompt + answer for answer in answers[:2]],
        "four answers": [prompt + answer for answer in answers[:4]],
        "eight answers": [prompt + answer for answer in answers],
        # a conversation: the next prompt is the last one with its better answer and more
        "nested": [
            prompt + answers[0],
            prompt + answers[1],
            prompt + answers[0] + answers[3] + answers[4],
            prompt + answers[0] + answers[3] + answers[5],
            prompt + answers[0] + answers[3] + answers[4] + answers[1] + answers[2],
            prompt + answers[0] + answers[3] + answers[4] + answers[1] + answers[6],
        ],
        "same and beginning": [apart[1], apart[1][:8], apart[1], apart[1][:1], apart[4], apart[1][:8] + apart[0]],
        "several trees": [p + a for p in (prompt, apart[1], apart[2]) for a in answers[:3]],
        "long": [long + end for end in ends] + [ends[0]],
    }


FORESTS = _forests()


def _backbone(model: Any) -> torch.nn.Module:
    return getattr(model, model.base_model_prefix)  # type: ignore[no-any-return]


def _hidden(model: Any, sequences: list[list[int]], *, packed: bool, share: bool = True) -> list[Tensor]:
    batch = layout.lay_out(sequences, packed=packed, pad_id=1, share=share)
    with attention(model, TREES if packed else None):
        states = _backbone(model)(**batch.inputs()).last_hidden_state.flatten(0, 1)
    return [states[cells[:n]] for cells, n in zip(batch.index, batch.lengths.tolist(), strict=True)]


def _one_at_a_time(model: Any, sequences: list[list[int]]) -> list[Tensor]:
    return [_backbone(model)(torch.tensor([ids])).last_hidden_state[0] for ids in sequences]


def _loss_and_gradients(model: Any, states: Iterable[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a number that depends on every token of every sequence in a way of its own."""
    generator = torch.Generator().manual_seed(5)
    model.zero_grad()
    loss = sum((s * torch.randn(s.shape, generator=generator)).sum() for s in states)
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_which_families_compute_token_trees(family: str) -> None:
    reason = probes.trees_unsupported(families.causal_lm(family))
    assert (reason is None) == (family not in families.PADDED)
    assert reason is None or "BloomForCausalLM" in reason


@pytest.mark.parametrize("forest", FORESTS)
@pytest.mark.parametrize("family", PACKED)
def test_same_loss_and_gradients_as_one_at_a_time(family: str, forest: str) -> None:
    model, sequences = families.causal_lm(family), FORESTS[forest]
    loss, together = _loss_and_gradients(model, _hidden(model, sequences, packed=True))
    expected, alone = _loss_and_gradients(model, _one_at_a_time(model, sequences))
    size = sum(float(states.detach().abs().sum()) for states in _one_at_a_time(model, sequences))
    assert abs(loss - expected) <= 1e-6 * size
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        # the gradient of a key's bias is zero but for rounding: softmax does not see it
        scale = alone[name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (together[name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2", "mistral"])
def test_torch_s_kernels_agree_with_the_one_by_hand(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = families.causal_lm(family), FORESTS["nested"] + FORESTS["long"]
    written, expected = _loss_and_gradients(model, _hidden(model, sequences, packed=True))
    monkeypatch.setitem(tree_attention_cpu.LONGEST, torch.float32, 0)
    by_kernel, gradients = _loss_and_gradients(model, _hidden(model, sequences, packed=True))
    assert by_kernel == pytest.approx(float(written), rel=1e-4)
    for name, gradient in expected.items():
        scale = expected[name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (gradients[name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("strategy", ["trees", "side by side", "padded"])
def test_same_hidden_states_as_one_at_a_time(family: str, strategy: str) -> None:
    model = families.causal_lm(family)
    if strategy != "padded" and family in families.PADDED:
        pytest.skip("needs the padded layout")
    sequences = FORESTS["nested"] + FORESTS["apart"]
    together = _hidden(model, sequences, packed=strategy != "padded", share=strategy == "trees")
    for states, alone in zip(together, _one_at_a_time(model, sequences), strict=True):
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_window_shorter_than_the_prompt_is_a_window_along_the_path(family: str) -> None:
    model = families.causal_lm(family)
    assert model.config.sliding_window < 11
    prompt, first, second = families.token_ids([11, 9, 9], seed=3)
    before = _hidden(model, [prompt + first, prompt + second], packed=True)[1]
    model.config.sliding_window = 100
    for layer in model.model.layers:  # gemma2 keeps it there
        layer.self_attn.sliding_window = 100
    after = _hidden(model, [prompt + first, prompt + second], packed=True)[1]
    assert torch.equal(before[:6], after[:6]) and not torch.allclose(before[11:], after[11:], atol=1e-3)


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_gradient_checkpointing_passes_the_plan_on(family: str) -> None:
    model = families.causal_lm(family).train()
    sequences = FORESTS["nested"]
    plain = [states.detach() for states in _hidden(model, sequences, packed=True)]
    # the backward pass runs the layers again, so it stands inside as well
    with recomputed_activations(model), attention(model, TREES):
        states = _hidden(model, sequences, packed=True)
        torch.testing.assert_close(states, plain)
        sum(state.sum() for state in states).backward()  # type: ignore[union-attr]


def test_branches_are_blind_to_each_other_and_trees_to_each_other() -> None:
    model = families.causal_lm("opt")
    sequences = list(FORESTS["several trees"])
    before = _hidden(model, sequences, packed=True)
    sequences[1] = sequences[1][:-1] + families.token_ids([4], seed=9)[0]
    after = _hidden(model, sequences, packed=True)
    for number in (0, 2, 3, 8):
        torch.testing.assert_close(before[number], after[number])
    assert not torch.allclose(before[1][-1], after[1][-1])


def test_additions_to_attention_are_refused() -> None:
    rows = torch.randn(1, 2, 3, 4)
    plan = make_plan(build_forest([[1, 2, 3]]))
    with pytest.raises(ValueError, match="its attention has s_aux"):
        tree_attention(torch.nn.Module(), rows, rows, rows, None, plan=plan, s_aux=torch.zeros(2))


def test_chunked_attention_is_padded() -> None:
    model = families.causal_lm("llama")
    model.config.layer_types = ["chunked_attention", "full_attention"]
    assert "into chunks" in str(probes.trees_unsupported(model))


def test_the_rectangle_is_padded_on_the_right() -> None:
    batch = layout.lay_out([[5, 6, 7], [8]], packed=False, pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.attention_mask is not None and batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.index.tolist() == [[0, 1, 2], [3, 4, 5]] and batch.lengths.tolist() == [3, 1]
    assert batch.tokens == 4


def test_tokens_are_counted_as_they_are_computed() -> None:
    sequences = [[5, 6, 7], [5, 6, 8, 9]]
    assert layout.lay_out(sequences, packed=True, pad_id=1).tokens == 5
    assert layout.lay_out(sequences, packed=True, pad_id=1, share=False).tokens == 7
