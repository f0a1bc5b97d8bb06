"""Reward models of other makers: which of their outputs is the reward, and training that starts from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhfcli.core.models import any_format, deepspeed_chat
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import RewardModel, as_reward_model, load_reward_model
from rlhfcli.core.parallel.zero3 import gathered, loading
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import DeepspeedSection, ModelSection
from tests.core import families, folders

SEQUENCES = families.token_ids([9, 4, 17])


def classifier(folder: Path, outputs: int = 1, **config: Any) -> Any:
    """Save a ``…ForSequenceClassification`` of another maker."""
    chosen = families.config("llama")
    chosen.num_labels = outputs
    chosen.update(config)
    torch.manual_seed(3)
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(chosen, dtype=torch.float32).eval()
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder)
    return model


def outputs_of(model: Any) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0] for ids in SEQUENCES])


def renamed(folder: Path, name: str, architecture: str, bias: bool = False) -> None:
    """Rename the head as other trainers save it."""
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.weight"] = tensors.pop("score.weight")
    if bias:
        tensors[f"{name}.bias"] = torch.tensor([0.5])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"architectures": [architecture]}))


def to_train(folder: Path, **section: Any) -> RewardModel:
    return any_format.load_reward_model_to_train(
        ModelSection(name=str(folder), dtype="fp32", **section), str(folder), 5
    ).eval()


def test_a_reward_model_is_trained_from_its_own_head(tmp_path: Path) -> None:
    expected = outputs_of(classifier(tmp_path))[:, 0]
    model = to_train(tmp_path)
    torch.testing.assert_close(model.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    assert model.head == f"the head of {tmp_path}"


def test_a_language_model_gets_a_new_head(tmp_path: Path) -> None:
    families.causal_lm("llama").save_pretrained(tmp_path)
    first, second = to_train(tmp_path), to_train(tmp_path)
    assert first.head == second.head == "a new head"
    assert torch.equal(first.score.weight, second.score.weight)  # the same seed


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("value_head", "RewardModel"), ("score", "RewardModel"), ("v_head.summary", "LlamaForCausalLM")],
)
def test_a_head_of_another_name(tmp_path: Path, name: str, architecture: str) -> None:
    expected = outputs_of(classifier(tmp_path))[:, 0]
    renamed(tmp_path, name, architecture)
    for model in (to_train(tmp_path), load_reward_model(tmp_path), any_format.load_reward_model(str(tmp_path))):
        torch.testing.assert_close(model.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
        assert model.config.num_labels == 1
        model.model.save_pretrained(tmp_path / "plain")
        again = load_file(tmp_path / "plain" / "model.safetensors")
        assert [key for key in again if not key.startswith("model.")] == ["score.weight"]


def test_a_bias_is_left_out_and_reported(tmp_path: Path) -> None:
    expected = outputs_of(classifier(tmp_path))[:, 0]
    renamed(tmp_path, "v_head.summary", "LlamaForCausalLM", bias=True)
    model = to_train(tmp_path)
    torch.testing.assert_close(model.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    assert "without its bias" in model.head


@pytest.mark.parametrize("label", [1, "1", "good"])
def test_one_of_several_outputs(tmp_path: Path, label: Any) -> None:
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    expected = outputs_of(classifier(tmp_path, 2, **names))[:, 1]
    for model in (to_train(tmp_path, label=label), load_reward_model(tmp_path, label=label)):
        torch.testing.assert_close(model.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
        assert "output 1 (good) of the 2" in model.head
        assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_with_two_mutually_exclusive_classes_the_log_odds_are_the_reward(tmp_path: Path) -> None:
    both = outputs_of(classifier(tmp_path, 2, problem_type="single_label_classification"))
    model = load_reward_model(tmp_path, label=1)
    torch.testing.assert_close(model.rewards(SEQUENCES), both[:, 1] - both[:, 0], rtol=1e-4, atol=1e-4)
    assert "the log-odds" in model.head


REFUSED: list[tuple[Callable[[Path], object], dict[str, Any], str]] = [
    (lambda f: classifier(f, 2), {}, "has 2 outputs, and one of them must be the reward: 0 LABEL_0, 1 LABEL_1"),
    (lambda f: classifier(f, 5), {}, "has 5 outputs"),
    (lambda f: classifier(f, 5), {"label": 5}, "has no output 5: it has 0 LABEL_0"),
    (lambda f: classifier(f, 5), {"label": "helpful"}, "has no output 'helpful'"),
    (lambda f: _several(f), {}, "the head that gives the scores is not one linear layer: score.0"),
]


def _several(folder: Path) -> None:
    classifier(folder)
    renamed(folder, "score.0", "RewardModel")
    tensors = load_file(folder / "model.safetensors")
    tensors["score.2.weight"] = torch.ones(1, 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("make", "section", "error"), REFUSED)
def test_a_head_that_is_not_one_output_is_an_error(
    tmp_path: Path, make: Callable[[Path], object], section: dict[str, Any], error: str
) -> None:
    make(tmp_path)
    for load in (lambda: to_train(tmp_path, **section), lambda: load_reward_model(tmp_path, **section)):
        with pytest.raises(ModelError, match=error) as caught:
            load()
        assert "report" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: (classifier(f), renamed(f, "value_head", "RewardModel")),
        lambda f: (classifier(f), renamed(f, "v_head.summary", "LlamaForCausalLM", bias=True)),
        lambda f: classifier(f, 2),
    ],
)
def test_at_stage_3_other_forms_are_refused_with_what_to_do(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    section = {"label": 1} if len(json.loads((tmp_path / "config.json").read_text()).get("id2label") or ()) > 1 else {}
    with loading(DeepspeedSection(zero_stage=3), 1.0), pytest.raises(ModelError) as caught:
        to_train(tmp_path, **section)
    assert caught.value.what == "at ZeRO stage 3 only reward models of the plain form can be loaded"
    assert "rlhf export FOLDER TO" in str(caught.value.hint)


def test_at_stage_3_the_plain_form_is_trained_from_its_own_head(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    with loading(DeepspeedSection(zero_stage=3), 1.0):
        loaded = to_train(tmp_path)
    with gathered([loaded.score.weight]):
        torch.testing.assert_close(loaded.score.weight, model.score.weight, rtol=1e-3, atol=1e-3)
    assert loaded.head == f"the head of {tmp_path}"


def test_a_reward_model_of_another_form_cannot_talk(tmp_path: Path) -> None:
    classifier(tmp_path)
    renamed(tmp_path, "value_head", "RewardModel")
    with pytest.raises(ModelError, match="this is a reward model"):
        load_causal_lm(str(tmp_path))


def test_deepspeed_chats_reward_model_is_trained_from_its_own_head(tmp_path: Path) -> None:
    final, _ = folders.save("opt", tmp_path, reward=True)
    expected = load_reward_model(final).rewards(SEQUENCES)
    (tmp_path / "theirs").mkdir()
    deepspeed_chat.save(load_reward_model(final), folders.tokenizer(), tmp_path / "theirs", "")
    for model in (to_train(tmp_path / "theirs"), any_format.load_reward_model(str(tmp_path / "theirs"))):
        torch.testing.assert_close(model.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    assert "v_head.weight" in to_train(tmp_path / "theirs").head


BROKEN = [
    ({"std": "x"}, "std in config.json is not a number: 'x'"),
    ({"mean": True}, "mean in config.json is not a number: True"),
    ({"mean": [1]}, "mean in config.json is not a number"),
    ({"rlhf": "x"}, "rlhf in config.json has no valid pooling"),
    ({"rlhf": {"pooling": "first"}}, "rlhf in config.json has no valid pooling"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN, ids=str)
def test_a_config_that_was_edited(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = classifier(tmp_path)
    as_reward_model(model.config, "last", (0.0, 1.0))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=message):
        load_reward_model(tmp_path)
