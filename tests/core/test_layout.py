"""The packed layout is exact: same results and gradients as one sequence at a time, in every family that takes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfcli.core import layout
from rlhfcli.core.model import recomputed_activations
from tests.core import families

LENGTHS = [7, 19, 3, 1, 12, 19]


def _backbone(model: object) -> torch.nn.Module:
    return getattr(model, model.base_model_prefix)  # type: ignore[attr-defined, no-any-return]


def _hidden(model: object, sequences: list[list[int]], *, packed: bool) -> list[torch.Tensor]:
    batch = layout.lay_out(sequences, packed=packed, pad_id=1)
    with layout.attention(model, layout.PACKED if packed else None):
        states = _backbone(model)(**batch.inputs()).last_hidden_state.flatten(0, 1)
    return [states[start : start + len(ids)] for start, ids in zip(batch.starts.tolist(), sequences, strict=True)]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_which_families_are_packed(family: str) -> None:
    assert layout.packs_exactly(families.causal_lm(family)) == (family not in families.PADDED)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("packed", [True, False])
def test_same_hidden_states_as_one_at_a_time(family: str, packed: bool) -> None:
    model = families.causal_lm(family)
    sequences = families.token_ids(LENGTHS)
    if packed and family in families.PADDED:
        pytest.skip("needs the padded layout")
    together = _hidden(model, sequences, packed=packed)
    for ids, states in zip(sequences, together, strict=True):
        alone = _backbone(model)(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name not in families.PADDED])
def test_same_gradients_as_one_at_a_time(family: str) -> None:
    model = families.causal_lm(family)
    sequences = families.token_ids(LENGTHS)
    direction = torch.randn(_hidden(model, sequences[:1], packed=True)[0].shape[-1])
    sum((states @ direction).sum() for states in _hidden(model, sequences, packed=True)).backward()  # type: ignore[union-attr]
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for ids in sequences:
        (_backbone(model)(torch.tensor([ids])).last_hidden_state @ direction).sum().backward()
    alone = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert alone.keys() == packed.keys()
    # the gradient of a key's bias is zero but for rounding: softmax does not see it
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in alone.values())
    for name, gradient in alone.items():
        assert (packed[name] - gradient).abs().max() <= 1e-5 * max(float(gradient.abs().max()), floor), name


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_gradient_checkpointing_hands_the_plan_on(family: str) -> None:
    model = families.causal_lm(family).train()
    sequences = families.token_ids(LENGTHS)
    plain = [states.detach() for states in _hidden(model, sequences, packed=True)]
    # the backward pass runs the layers again, so it stands inside as well
    with recomputed_activations(model), layout.attention(model, layout.PACKED):
        states = _hidden(model, sequences, packed=True)
        torch.testing.assert_close(states, plain)
        sum(state.sum() for state in states).backward()  # type: ignore[union-attr]


def test_a_sequence_does_not_see_its_neighbours() -> None:
    model = families.causal_lm("opt")
    sequences = families.token_ids(LENGTHS)
    before = _hidden(model, sequences, packed=True)
    sequences[1] = families.token_ids([len(sequences[1])], seed=9)[0]
    after = _hidden(model, sequences, packed=True)
    assert torch.equal(before[2], after[2]) and torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_every_token_stands_once_in_the_plan(lengths: list[int]) -> None:
    plan = layout.make_plan(torch.tensor(lengths))
    cells = torch.cat([group.flatten() for group in plan.groups])
    assert torch.equal(cells[plan.scatter], torch.arange(sum(lengths)))
    assert sum(len(group) for group in plan.groups) == len(lengths)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100), st.booleans())
def test_micro_batches_hold_every_sequence_once_and_keep_to_the_budget(
    lengths: list[int], budget: int, packed: bool
) -> None:
    parts = layout.fill(lengths, budget, packed=packed)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        sizes = [lengths[index] for index in part]
        cost = sum(sizes) if packed else max(sizes) * len(sizes)
        assert cost <= budget or len(part) == 1


def test_positions_restart_with_each_sequence() -> None:
    batch = layout.lay_out([[5, 6, 7], [8], [9, 10]], packed=True, pad_id=1)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.starts.tolist() == [0, 3, 4]


def test_the_rectangle_is_padded_on_the_right() -> None:
    batch = layout.lay_out([[5, 6, 7], [8]], packed=False, pad_id=1)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.mask is not None and batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.starts.tolist() == [0, 3]
