"""Settings of a config that do not work in training: fixed and noted, or one error in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhfcli.core.capacity import dry_run as dry
from rlhfcli.core.families.config_checks import check_length, check_reward_form, context_length, notes_of, pad_of
from rlhfcli.core.generation.decode import Decoding, context_limit, generate
from rlhfcli.core.models.loading import load_causal_lm, load_config, recomputed_activations
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.sequence_classifier import load_for_scoring
from rlhfcli.core.packing.stand_in import make_stand_in
from rlhfcli.core.publish.saving import rehearse_saving
from rlhfcli.core.training import parts, phases
from rlhfcli.core.training.measure import measure_dialogues
from rlhfcli.data.encoding.encoded import EncodedDialogue
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection
from tests.core import families
from tests.core.training.test_phases import Listening, Tokenizer, _project

LIMITS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "max_position_embeddings": (lambda: families.config("llama"), 128),
    "n_positions": (lambda: families.config("gpt2"), 128),
    "max_seq_len": (lambda: transformers.MptConfig(**families.IDS, max_seq_len=64), 64),
    "a section": (lambda: gemma3(), 128),
    "ALiBi": (lambda: families.config("bloom"), None),
    "states": (lambda: families.config("mamba"), None),
}


def gemma3() -> Any:
    """Text and pictures: what other configs have at their top stands in a section."""
    text = families.NEW | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    return transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


@pytest.mark.parametrize("name", LIMITS)
def test_the_context_length_by_any_name(name: str) -> None:
    make, limit = LIMITS[name]
    assert context_length(make()) == limit


def test_an_answer_ends_where_the_positions_of_mpt_end() -> None:
    model = AutoModelForCausalLM.from_config(
        transformers.MptConfig(**families.IDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=20)
    ).eval()
    assert context_limit(model) == 20
    assert len(generate(model, [[5] * 16], Decoding(9), (), 1)[0]) == 4


LENGTHS = {
    "gpt2": "gpt2: data.max_length is 512, and this model reads at most 128 tokens\n"
    "Lower it: --set data.max_length=128",
    "opt": "opt: data.max_length is 512, and this model reads at most 128 tokens\nLower it: --set data.max_length=128",
    "llama": "data.max_length is 512: this model was made for 128 tokens and may do worse beyond them",
    "bloom": "",
}


@pytest.mark.parametrize("family", LENGTHS)
def test_longer_rows_than_the_model_reads(family: str) -> None:
    assert check_length(families.config(family), 128, family) == ""
    try:
        message = check_length(families.config(family), 512, family)
    except ModelError as error:
        message = str(error)
    assert message == LENGTHS[family]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    families.causal_lm("llama").save_pretrained(folder)
    return folder


def _with(saved: Path, tmp_path: Path, file: str, **values: Any) -> str:
    folder = shutil.copytree(saved, tmp_path / "model", dirs_exist_ok=True)
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
    return str(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_quantised_weights_are_refused_in_words(saved: Path, tmp_path: Path, method: str) -> None:
    name = _with(saved, tmp_path, "config.json", quantization_config={"quant_method": method, "load_in_4bit": True})
    for load in (load_config, load_causal_lm, lambda name: load_for_scoring(ModelSection(name=name), name)):
        with pytest.raises(ModelError, match=rf"quantised \({method}\)"):
            load(name)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature without do_sample": ({"temperature": 0.9, "top_p": 0.6}, "has a temperature without do_sample"),
    "a contradiction": ({"early_stopping": True, "num_beams": 1}, "only its token ids are kept"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_generation_settings_that_cannot_be_saved_are_fixed_at_load(saved: Path, tmp_path: Path, name: str) -> None:
    values, message = SETTINGS[name]
    model = load_causal_lm(_with(saved, tmp_path, "generation_config.json", eos_token_id=[2, 7], **values))
    rehearse_saving(model, Tokenizer())  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "again")
    assert any(message in line for line in notes_of(model.config))
    assert model.generation_config.eos_token_id == [2, 7]


def test_a_model_that_cannot_be_saved_is_found_before_the_first_step(tmp_path: Path) -> None:
    class Unwilling(Tokenizer):
        def save_pretrained(self, folder: Path) -> None:
            raise NotImplementedError("this tokenizer saves nothing")

    project = _project(tmp_path, "opt")
    project = parts.PhaseInputs(project.recipe, project.prepared, Unwilling(), project.folder, project.sink)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="the trained model could not be saved: this tokenizer saves nothing"):
        phases.train_sft(project)
    assert not (project.folder / "sft" / "metrics.jsonl").exists()


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
def test_the_logits_of_routers_are_switched_off(tmp_path: Path, family: str) -> None:
    expert = {"moe_intermediate_size": 16, "num_experts": 2} if family == "qwen3-moe" else {"num_local_experts": 2}
    kind = transformers.Qwen3MoeConfig if family == "qwen3-moe" else transformers.MixtralConfig
    given = families.NEW | expert | {"num_key_value_heads": 2, "num_experts_per_tok": 1, "head_dim": 8}
    AutoModelForCausalLM.from_config(kind(**given, output_router_logits=True)).save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path))
    assert "output_router_logits" in "".join(notes_of(model.config))
    assert len(generate(model, [[5, 6], [7, 8, 9]], Decoding(3), (), 1)[0]) == 3
    rows = [EncodedDialogue([2, *ids], [(1, len(ids) + 1)]) for ids in families.token_ids([5, 9])]
    assert measure_dialogues(model, rows, "all", 64).tokens == 14


def test_weights_that_are_not_finite_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"NaN or infinite values: model\.layers\.1\.mlp\.up_proj\.weight and 1 more\nThe model itself is broken"
    with pytest.raises(ModelError, match=message):
        load_causal_lm(str(folder))
    with pytest.raises(ModelError, match="NaN or infinite values"):
        load_for_scoring(ModelSection(name=str(folder)), str(folder))


REWARDS: dict[str, tuple[Callable[[], Any], str]] = {
    "cohere": (
        lambda: transformers.CohereConfig(**families.NEW),
        "no CohereForSequenceClassification",
    ),
    "granite": (lambda: transformers.GraniteConfig(**families.NEW), "no GraniteForSequenceClassification"),
    "bart": (lambda: families.config("bart"), "BartForSequenceClassification has no linear head called score"),
    "llama": (lambda: families.config("llama"), ""),
    "gemma3": (gemma3, ""),
    "gpt2": (lambda: families.config("gpt2"), ""),
}


@pytest.mark.parametrize("family", REWARDS)
def test_families_without_a_reward_form(family: str) -> None:
    make, message = REWARDS[family]
    if not message:
        check_reward_form(make(), family)
        return
    with pytest.raises(ModelError) as caught:
        check_reward_form(make(), family)
    assert str(caught.value).startswith(f"{family}: no reward model can be made from this family: ")
    assert message in str(caught.value)
    assert "rlhf sft works with it" in str(caught.value)


@pytest.mark.parametrize("family", ["ctrl", "gpt-1"])
def test_activations_that_a_family_cannot_recompute(family: str) -> None:
    with (
        pytest.raises(ModelError, match=r"model\.gradient_checkpointing: .* cannot recompute activations"),
        recomputed_activations(families.causal_lm(family)),
    ):
        pass


def test_a_text_model_inside_of_a_larger_one(tmp_path: Path) -> None:
    """Gemma 3 with its eyes: the pad token and the size of the vocabulary stand in a section of its config."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(gemma3(), dtype=torch.float32).save_pretrained(tmp_path / "base-gemma3")
    project = _project(tmp_path, "gemma3", phase={"epochs": 1, "max_steps": 2})
    assert pad_of(load_config(project.recipe.model.name)) == 1
    sink = Listening()
    project = parts.PhaseInputs(project.recipe, project.prepared, project.tokenizer, project.folder, sink)
    made = parts.sft_parts(project)
    rows = project.prepared.dialogues("validation")
    assert measure_dialogues(made.module.model, rows, "all", 64).tokens > 0
    assert generate(made.module.model, [[5, 6], [7]], Decoding(2), (), 1)
    config = gemma3()
    config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    assert RewardModel(scorer).rewards([[5, 6], [7, 8, 9]]).isfinite().all()
    for name in ("sft", "reward"):
        assert dry.dry_run(project, name, 1, 1)["parameters"] > 0


@pytest.mark.parametrize("family", [*families.STATES, *families.CONFIGS, *families.MASKED])
def test_a_stand_in_can_be_made(family: str) -> None:
    small = make_stand_in(AutoModelForCausalLM, families.config(family), trust_remote_code=False)
    with torch.no_grad():
        assert small(torch.tensor([[5, 6, 7]]), use_cache=False).logits.isfinite().all()


@pytest.mark.parametrize("family", ["jamba", "qwen3.5", "gpt-oss", "zamba2", "mamba2"])
def test_the_memory_of_a_step_is_estimated_for_experts_and_states_too(tmp_path: Path, family: str) -> None:
    found = dry.dry_run(_project(tmp_path, family), "sft", 1, 1)
    model = families.causal_lm(family)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["stages"][0]["activations"] > 48 * 32 * 4 * 2  # more than the states between its layers
    if family == "mamba2":
        with pytest.raises(ModelError, match="no reward model can be made from this family"):
            dry.dry_run(_project(tmp_path, family, reward={"init_from": "base"}), "reward", 1, 1)
