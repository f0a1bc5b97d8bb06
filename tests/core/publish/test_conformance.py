"""The check of an export finds errors: one that always passes would be worthless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.publish import conformance, exporter, reference_outputs
from rlhfcli.core.publish.conformance import ClientResult, ConformanceReport
from rlhfcli.files.run_layout import SUMS
from tests.core import families, folders


def change(file: Path, key: str, by: float) -> None:
    tensors = load_file(file)
    tensors[key] = tensors[key] + by
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return folders.save("opt", tmp_path, reward=True)[0]


def test_changed_weights_are_found(final: Path) -> None:
    reference = reference_outputs.reference(load_reward_model(final), folders.tokenizer())
    assert exporter.check(final, reference).agrees
    change(final / "model.safetensors", "score.weight", 1e-2)
    report = exporter.check(final, reference)
    assert not report.agrees and report.compared
    assert [outcome.agrees for outcome in report.results] == [False] * 5 + [True]  # the adapter is still the same


def test_a_folder_that_cannot_be_loaded_elsewhere_is_found(final: Path) -> None:
    reference = reference_outputs.reference(load_reward_model(final), folders.tokenizer())
    (final / "config.json").unlink()
    report = exporter.check(final, reference)
    assert not report.agrees
    assert report.results[0].note.startswith("failed: ")


def test_a_pipeline_with_another_tokenizer_is_found(final: Path) -> None:
    reference = reference_outputs.reference(load_reward_model(final), folders.tokenizer())
    content = json.loads((final / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["w5"], vocabulary["w90"] = vocabulary["w90"], vocabulary["w5"]
    (final / "tokenizer.json").write_text(json.dumps(content))
    outcomes = {outcome.client: outcome.agrees for outcome in exporter.check(final, reference).results}
    assert outcomes.pop("text-classification pipeline") is False
    assert all(outcomes.values())


def test_a_changed_adapter_is_found(final: Path) -> None:
    reference = reference_outputs.reference(load_reward_model(final), folders.tokenizer())
    file = final / "adapter" / "adapter_model.safetensors"
    change(file, next(key for key in load_file(file) if key.endswith("lora_B.weight")), 0.1)
    report = exporter.check(final / "adapter", reference)
    assert not report.agrees


def test_an_adapter_without_its_base_is_reported_as_not_checked(final: Path) -> None:
    config = final / "adapter" / ADAPTER_CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "./nowhere"}))
    (final / "adapter" / SUMS).unlink()
    outcome = exporter.check(final).results[-1]
    assert outcome.difference is None and outcome.note == "its base model is not here: ./nowhere"
    assert exporter.check(final).agrees  # the model itself was compared


def test_a_missing_peft_is_reported(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "find_spec", lambda _: None)
    assert "PEFT is not installed" in exporter.check(final).results[-1].note


def test_nothing_compared_is_not_a_pass() -> None:
    assert not ConformanceReport((ClientResult("a", None, "no"),), "").agrees
    assert ConformanceReport((ClientResult("a", None, "no"), ClientResult("b", 1e-6)), "").agrees
    assert not ConformanceReport((ClientResult("b", 1e-6), ClientResult("c", float("nan"))), "").agrees


def test_a_model_without_a_pad_token_is_compared_one_at_a_time(tmp_path: Path) -> None:
    final, _ = folders.save("llama", tmp_path, reward=False)
    config = json.loads((final / "config.json").read_text())
    config.pop("pad_token_id")
    (final / "config.json").write_text(json.dumps(config))
    (final / SUMS).unlink()
    first, second = exporter.check(final).results[:2]
    assert first.agrees and (second.difference, second.note) == (None, "the model has no pad token")


def test_scores_of_mean_pooling_are_compared_at_the_last_token(tmp_path: Path) -> None:
    final, _ = folders.save("opt", tmp_path, reward=True)
    config = json.loads((final / "config.json").read_text())
    (final / "config.json").write_text(json.dumps(config | {"rlhf": {"pooling": "mean"}}))
    (final / SUMS).unlink()
    report = exporter.check(final)
    assert report.agrees and "which only rlhf reads" in report.about


def test_validation_examples_come_first_and_must_fit_the_model() -> None:
    model = families.causal_lm("opt")
    data = [[5, 6], [], [500], list(range(3, 120)) * 2, [7]]
    reference = reference_outputs.reference(model, folders.tokenizer(), data)
    assert reference.sequences[:2] == [[5, 6], [7]] and len(reference.sequences) == 32
    assert reference.about == "logits at the last token of 2 of the validation data and 30 drawn at random"
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    assert (reference.values[0] - logits).abs().max() < 1e-4
