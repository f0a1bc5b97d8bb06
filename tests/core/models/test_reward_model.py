"""The reward model: one number per answer, the same for everybody who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import RewardModel, as_reward_model, load_reward_model, reward_model_to_train
from rlhfcli.core.packing.layout import spans
from rlhfcli.core.packing.strategy import choose_strategy
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection
from tests.core import families

LENGTHS = [9, 4, 30, 17, 9]


def _saved(family: str, folder: Path, pooling: str = "last") -> RewardModel:
    model = RewardModel(families.classifier(family)).eval()
    as_reward_model(model.config, pooling, (0.25, 1.5))
    model.model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", families.SIX)
def test_same_rewards_from_us_reloaded_and_from_transformers(family: str, tmp_path: Path) -> None:
    sequences = families.token_ids(LENGTHS)
    ours = _saved(family, tmp_path).rewards(sequences)
    reloaded = load_reward_model(tmp_path)
    assert (reloaded.rewards(sequences) - ours).abs().max() <= 1e-5
    assert (reloaded.mean, reloaded.std) == (0.25, 1.5)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.problem_type == "regression" and theirs.config.num_labels == 1
    with torch.no_grad():
        alone = torch.stack([theirs(torch.tensor([ids])).logits[0, 0] for ids in sequences])
        longest = max(LENGTHS)
        padded = torch.tensor([ids + [1] * (longest - len(ids)) for ids in sequences])
        right = theirs(padded, attention_mask=(padded != 1).long()).logits[:, 0]
    assert (alone - ours).abs().max() <= 1e-4
    assert (right - ours).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["opt", "llama", "bloom", "gemma2"])
def test_rewards_do_not_depend_on_the_batch(family: str) -> None:
    model = RewardModel(families.classifier(family)).eval()
    sequences = families.token_ids(LENGTHS)
    together = model.rewards(sequences)
    alone = torch.cat([model.rewards([ids]) for ids in sequences])
    assert (together - alone).abs().max() <= 1e-5


def test_mean_pooling_reads_the_mean_over_the_answer() -> None:
    model = RewardModel(families.classifier("llama")).eval()
    as_reward_model(model.config, "mean", (0.0, 1.0))
    ids = families.token_ids([12])[0]
    with torch.no_grad():
        states = model.model.model(torch.tensor([ids])).last_hidden_state[0]
        expected = (states @ model.score.weight[0])[5:].mean()
    assert float(model.rewards([ids], [5])) == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="needs the prompt lengths"):
        model.rewards([ids])


def test_the_head_is_float32_under_bf16() -> None:
    model = RewardModel(families.classifier("opt"), bf16=True).eval()
    sequences = families.token_ids(LENGTHS)
    with torch.no_grad():
        rewards = model.rewards(sequences)
    assert rewards.dtype == torch.float32
    # a head computed in bf16 would give numbers that bf16 can write
    assert (rewards.bfloat16().float() != rewards).any()


def test_a_new_head_on_a_language_model_keeps_its_weights(tmp_path: Path) -> None:
    language = families.causal_lm("opt-350m")
    language.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = reward_model_to_train(ModelSection(name=str(tmp_path), dtype="fp32"), str(tmp_path))
    assert model.score.weight.shape == (1, 16)  # word_embed_proj_dim, not hidden_size
    for name, tensor in language.model.state_dict().items():
        assert torch.equal(model.model.model.state_dict()[name], tensor)


def test_each_kind_of_folder_is_recognised(tmp_path: Path) -> None:
    families.causal_lm("opt").save_pretrained(tmp_path / "language")
    _saved("opt", tmp_path / "reward")
    with pytest.raises(ModelError, match="this is a language model") as caught:
        load_reward_model(tmp_path / "language")
    assert "reward/final" in str(caught.value)
    with pytest.raises(ModelError, match="this is a reward model"):
        load_causal_lm(str(tmp_path / "reward"))


def test_spans_against_a_loop() -> None:
    tokens, segments = spans(torch.tensor([3, 10, 20]), torch.tensor([5, 10, 23]))
    assert tokens.tolist() == [3, 4, 20, 21, 22]
    assert segments.tolist() == [0, 0, 2, 2, 2]


def test_the_strategy_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(
        "rlhfcli.core.models.reward_model.choose_strategy", lambda model: tried.append(model) or choose_strategy(model)
    )
    model = RewardModel(families.classifier("opt"))
    first = model.rewards([[5, 6, 7]])
    assert torch.equal(model.rewards([[5, 6, 7]]), first)
    assert len(tried) == 1
