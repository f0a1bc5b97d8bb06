"""Adapters that were trained with PEFT: features beyond plain LoRA are read by PEFT, and give the same numbers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlhfcli.core.model_files import peft_adapters
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG
from rlhfcli.core.models import any_format
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.publish import exporter
from rlhfcli.core.publish.saving import save_model
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection
from tests.core import families, folders

SEQUENCES = families.token_ids([9, 4, 17])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, -1, : families.VOCABULARY] for ids in SEQUENCES])


def trained(folder: Path, config: Any, family: str = "llama", kind: Any = families.causal_lm, rows: int = 0) -> Any:
    """Save an adapter of PEFT's, as if it had been trained, in ``folder / "adapter"``, and its base model beside it."""
    save_model(families.causal_lm(family), folders.tokenizer(), folder / "base", None, "")
    base = kind(family)
    if kind is families.causal_lm:
        base = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    else:
        base.model.load_state_dict(families.causal_lm(family).model.state_dict())
    if rows:
        base.resize_token_embeddings(rows, mean_resizing=False)
    base.config.name_or_path = base.name_or_path = str(folder / "base")
    model = get_peft_model(base, config).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the embedding is saved as well
        model.save_pretrained(str(folder / "adapter"))
    return model


KINDS: dict[str, dict[str, Any]] = {
    "some layers": {"layers_to_transform": [1]},
    "some modules left out": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "a rank of its own": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "the head": {"modules_to_save": ["lm_head"]},
    "the embedding": {"modules_to_save": ["embed_tokens"]},
    "LoRA of the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "LoRA of the head": {"target_modules": ["q_proj", "lm_head"]},
    "biases": {"bias": "lora_only", "target_modules": ["q_proj"]},
    "a pattern": {"target_modules": r".*\.1\..*(q|v)_proj"},
}


@pytest.mark.parametrize("name", KINDS)
def test_what_goes_beyond_plain_lora(name: str, tmp_path: Path) -> None:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    family = "opt" if name == "biases" else "llama"
    theirs = trained(tmp_path, LoraConfig(**(settings | KINDS[name])), family)
    expected = logits(theirs)
    assert (expected - logits(load_causal_lm(str(tmp_path / "base")))).abs().max() > 1e-2
    ours = any_format.load_language_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(ours), expected, rtol=1e-4, atol=1e-4)
    folders.tokenizer().save_pretrained(tmp_path / "adapter")
    report = exporter.export(exporter.of_folder(tmp_path / "adapter"), tmp_path / "out")
    assert report and report.agrees, report
    torch.testing.assert_close(logits(load_causal_lm(str(tmp_path / "out"))), expected, rtol=1e-4, atol=1e-4)


def test_new_tokens_with_trained_rows(tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    theirs = trained(tmp_path, config, rows=families.VOCABULARY + 3)
    ours = any_format.load_language_model(str(tmp_path / "adapter"))
    assert ours.get_input_embeddings().num_embeddings == families.VOCABULARY + 3
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-4)


def test_other_methods(tmp_path: Path) -> None:
    theirs = trained(tmp_path, LoHaConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    torch.testing.assert_close(
        logits(any_format.load_language_model(str(tmp_path / "adapter"))), logits(theirs), rtol=1e-4, atol=1e-4
    )


def test_names_that_match_nothing_are_ignored_as_in_peft(tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "query_key_value"], task_type="CAUSAL_LM")
    theirs = trained(tmp_path, config)
    found = any_format.load_language_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(found), logits(theirs), rtol=1e-4, atol=1e-4)


def test_a_reward_adapter_with_several_outputs(tmp_path: Path) -> None:
    def classifier(family: str) -> Any:
        config = families.config(family)
        config.num_labels = 2
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()

    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS", use_dora=True)
    theirs = trained(tmp_path, config, kind=classifier)
    with torch.no_grad():
        expected = torch.stack([theirs(torch.tensor([ids])).logits[0, 1] for ids in SEQUENCES])
    name = str(tmp_path / "adapter")
    with pytest.raises(ModelError, match="has 2 outputs"):
        any_format.load_reward_model(name)
    ours = any_format.load_reward_model(name, label=1)
    torch.testing.assert_close(ours.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    again = any_format.load_reward_model_to_train(ModelSection(name=name, label=1, dtype="fp32"), name)
    torch.testing.assert_close(again.eval().rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    folders.tokenizer().save_pretrained(name)
    report = exporter.export(
        exporter.of_folder(tmp_path / "adapter"), tmp_path / "out", exporter.ExportSettings(label="1")
    )
    assert report and report.agrees, report
    torch.testing.assert_close(load_reward_model(tmp_path / "out").rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["language", "reward"])
def test_an_adapter_as_the_base_of_a_training(kind: str, tmp_path: Path) -> None:
    final, _ = folders.save("llama", tmp_path, reward=kind == "reward")
    name = str(final / "adapter")
    if kind == "language":
        merged, found = load_causal_lm(str(final)), any_format.load_language_model(name)
        torch.testing.assert_close(logits(found), logits(merged), rtol=1e-4, atol=1e-4)
        started = any_format.load_reward_model_to_train(ModelSection(name=name, dtype="fp32"), name)
        assert started.head == "a new head"
        torch.testing.assert_close(
            started.model.model.layers[0].self_attn.q_proj.weight, merged.model.layers[0].self_attn.q_proj.weight
        )
    else:
        started = any_format.load_reward_model_to_train(ModelSection(name=name, dtype="fp32"), name).eval()
        expected = load_reward_model(final).rewards(SEQUENCES)
        torch.testing.assert_close(started.rewards(SEQUENCES), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="no adapter can be trained on a base that is an adapter itself"):
        any_format.refuse_lora(ModelSection(name=name), name)


def _edit(folder: Path, **change: Any) -> None:
    file = folder / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_without_peft_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM"))
    monkeypatch.setattr(peft_adapters, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="without PEFT only plain LoRA adapters can be read") as caught:
        any_format.load_language_model(str(tmp_path / "adapter"))
    assert "use_dora" in str(caught.value) and "pip install peft" in str(caught.value)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"base_model_name_or_path": "./gone"}, "the adapter's base model: there is no such folder", "base_model_name_or_"),
    ({"base_model_name_or_path": None}, "the adapter does not say what its base model is", ""),
    ({"target_modules": ["c_attn"]}, "the adapter belongs to another model", "end in: down_proj"),
    ({"task_type": "TOKEN_CLS"}, "the adapter of another kind of model: task_type TOKEN_CLS", "SEQ_CLS"),
    ({"use_dora": True}, "the adapter does not fit the model: .* tensors missing", ""),
    ({"r": 3, "rank_pattern": {"v_proj": 4}}, "PEFT cannot read this adapter: .*size mismatch|Error", "rank_pattern"),
]


@pytest.mark.parametrize(("change", "message", "hint"), REFUSED, ids=lambda each: str(each)[:20])
def test_tensors_that_do_not_fit_are_an_error_of_the_adapter(
    tmp_path: Path, change: Any, message: str, hint: str
) -> None:
    trained(tmp_path, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    _edit(tmp_path / "adapter", **change)
    with pytest.raises(ModelError, match=message) as caught:
        any_format.load_language_model(str(tmp_path / "adapter"))
    assert hint in str(caught.value) and "lora.targets" not in str(caught.value)


def test_an_adapter_that_cannot_be_merged_is_an_error(tmp_path: Path) -> None:
    trained(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError, match="an adapter of this kind cannot be merged"):
        any_format.load_language_model(str(tmp_path / "adapter"))


def test_an_adapter_in_the_place_of_a_model_is_named(tmp_path: Path) -> None:
    final, _ = folders.save("opt", tmp_path, reward=False)
    with pytest.raises(ModelError, match="this is the folder of an adapter, not of a whole model"):
        load_causal_lm(str(final / "adapter"))


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path: Path) -> None:
    trained(tmp_path, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert load_tokenizer(str(tmp_path / "adapter")).get_vocab() == folders.tokenizer().get_vocab()
