"""Families with an attention of their own: the forest as a mask gives the same as one sequence at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from transformers import AutoModelForCausalLM

from rlhfcli.core.models.loading import recomputed_activations
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing import layout
from rlhfcli.core.packing.probes import config_forbids_mask
from rlhfcli.core.packing.strategy import MASK, Strategy, choose_strategy
from rlhfcli.core.token_trees.attention_plan import make_plan
from rlhfcli.core.token_trees.forest import build_forest
from rlhfcli.core.token_trees.tree_attention import TREES
from rlhfcli.core.token_trees.tree_mask import MASK_TOKENS, attention_mask, masked, sees
from rlhfcli.core.training.measure import measure_dialogues
from rlhfcli.data.encoding.encoded import EncodedDialogue
from tests.core import families
from tests.core.packing.test_layout import FORESTS, PACKED, _loss_and_gradients, _one_at_a_time
from tests.core.token_trees.test_forest import SEQUENCES

# families that use our attention function can be given a mask as well, unless their windows are not set by layer
FORCED = [family for family in PACKED if family != "mistral"] + list(families.MASKED)


def _by_mask(model: Any, sequences: list[list[int]]) -> list[torch.Tensor]:
    batch = layout.lay_out(sequences, packed=True, pad_id=1)
    with masked(model):
        states = getattr(model, model.base_model_prefix)(**batch.inputs()).last_hidden_state.flatten(0, 1)
    return [states[cells[:n]] for cells, n in zip(batch.index, batch.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("family", FORCED)
def test_same_loss_and_gradients_as_one_at_a_time(family: str) -> None:
    model, sequences = families.causal_lm(family), FORESTS["nested"] + FORESTS["several trees"]
    assert config_forbids_mask(model.config) is None
    loss, together = _loss_and_gradients(model, _by_mask(model, sequences))
    expected, alone = _loss_and_gradients(model, _one_at_a_time(model, sequences))
    size = sum(float(states.detach().abs().sum()) for states in _one_at_a_time(model, sequences))
    assert abs(loss - expected) <= 1e-6 * size
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        scale = alone[name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (together[name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("family", families.MASKED)
def test_the_strategy_of_these_families_is_a_mask(family: str) -> None:
    strategy = choose_strategy(families.causal_lm(family))
    assert strategy.packed and strategy.attention == MASK
    assert strategy.description.startswith("token trees as a 4-D mask: ")


@settings(max_examples=100, deadline=None)
@given(SEQUENCES)
def test_a_window_is_counted_along_the_path(sequences: list[list[int]]) -> None:
    forest = build_forest(sequences)
    seen = sees(make_plan(forest), 3)
    for cells, length in zip(forest.index, forest.lengths.tolist(), strict=True):
        for t in range(length):
            assert seen[cells[t]].nonzero().flatten().tolist() == cells[max(0, t - 2) : t + 1].tolist()


def test_a_family_with_several_kinds_of_layers_gets_a_mask_for_each() -> None:
    plan = make_plan(build_forest([[1, 2, 3, 4, 5, 6, 7, 8]]))
    masks = attention_mask(families.config("gpt-oss"), plan, torch.float32)
    assert isinstance(masks, dict)
    counted = {kind: int((mask == 0).sum()) for kind, mask in masks.items()}
    assert counted == {"full_attention": 36, "sliding_attention": 33}
    assert isinstance(attention_mask(families.config("gptj"), plan, torch.float32), torch.Tensor)


def test_a_window_that_counts_the_cells_of_a_row_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(families.GPT_NEO).eval()
    assert config_forbids_mask(model.config) == "its window_size counts the cells of a row"
    assert not choose_strategy(model).packed


def test_the_probe_is_longer_than_a_window_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the config did not mention it, the window of 256 tokens would be noticed."""
    monkeypatch.setattr("rlhfcli.core.packing.probes.config_forbids_mask", lambda _: None)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families.GPT_NEO).eval()
    families._spread(model)
    assert not choose_strategy(model).packed
    for attention in model.transformer.h:
        attention.attn.attention.bias.fill_(True)  # no window, and causal by the mask alone
    assert choose_strategy(model).attention == MASK


def test_other_kinds_of_layers_are_refused() -> None:
    config = families.config("llama")
    config.layer_types = ["full_attention", "linear_attention"]
    assert config_forbids_mask(config) == "it has layers of linear_attention"


def test_rewards_by_a_mask_are_those_of_the_padded_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RewardModel(families.classifier("gptj"))
    by_mask = model.rewards(FORESTS["nested"])
    monkeypatch.setattr("rlhfcli.core.models.reward_model.choose_strategy", lambda _: Strategy(None))
    torch.testing.assert_close(by_mask, model.rewards(FORESTS["nested"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gptj", "gpt-oss"])
def test_losses_by_a_mask_are_those_of_the_padded_layout(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.causal_lm(family)
    dialogues = [EncodedDialogue(ids, [(3, len(ids))]) for ids in FORESTS["nested"]]
    by_mask = measure_dialogues(model, dialogues, "assistant", 1000)
    monkeypatch.setattr("rlhfcli.core.training.measure.choose_strategy", lambda *_: Strategy(None))
    padded = measure_dialogues(model, dialogues, "assistant", 1000)
    assert (by_mask.tokens, by_mask.correct) == (padded.tokens, padded.correct)
    assert by_mask.nll == pytest.approx(padded.nll, rel=1e-5)


def test_gradient_checkpointing_takes_the_mask() -> None:
    model = families.causal_lm("gptj").train()
    plain, gradients = _loss_and_gradients(model, _by_mask(model, FORESTS["nested"]))
    with recomputed_activations(model):
        loss, again = _loss_and_gradients(model, _by_mask(model, FORESTS["nested"]))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(again, gradients)


def test_the_hooks_are_removed() -> None:
    model = families.causal_lm("gptj")
    with masked(model):
        assert model._forward_pre_hooks and model.transformer._forward_pre_hooks
    assert not model._forward_pre_hooks and not model.transformer._forward_pre_hooks


def test_rows_under_a_mask_stay_short() -> None:
    assert Strategy(MASK).row_budget(10**6) == MASK_TOKENS
    assert Strategy(TREES).row_budget(10**6) == 10**6
