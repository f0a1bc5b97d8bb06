"""One whole project: what it leaves behind, that others can load it, and what the verbs do with it afterwards."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhfcli.core.models.loading import load_causal_lm, resolve
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.data.store.prepared import DataStore
from tests.e2e.conftest import changes, start

ARTEFACTS = [
    "recipe.yaml",
    "run.json",
    "data/manifest.json",
    "data/rejected_rows.jsonl",
    "sft/metrics.jsonl",
    "sft/final/config.json",
    "sft/final/model.safetensors",
    "sft/final/tokenizer.json",
    "sft/final/chat_template.jinja",
    "sft/final/adapter/adapter_config.json",
    "sft/final/adapter/adapter_model.safetensors",
    "reward/metrics.jsonl",
    "reward/final/config.json",
    "reward/final/model.safetensors",
    "reward/final/tokenizer.json",
    "reward/final/adapter/adapter_config.json",
    "eval/sft.json",
    "eval/reward.json",
]


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", ARTEFACTS)
def test_every_artefact_is_there(project, name):
    assert (project.run / name).is_file()


def test_a_dry_run_says_what_the_training_took(project):
    shown = start("sft", "--dry-run", "--json", folder=project.folder).communicate(timeout=120)[0]
    (found,) = json.loads(shown)
    (told,) = [stage["device"] / 1e9 for stage in found["stages"] if stage["stage"] == found["zero_stage"]]
    took = max(line.get("memory_gb", 0) for line in lines(project.run / "sft/metrics.jsonl"))
    assert found["prepared"]
    assert 0.75 * took < told < 1.35 * took


def test_nothing_half_made_is_left(project):
    assert [path for path in project.run.rglob(".*")] == []


def test_others_may_read_what_was_written(project):
    modes = {path: path.stat().st_mode & 0o777 for path in project.run.rglob("*")}
    expected = (project.folder / "prompts.jsonl").stat().st_mode & 0o777
    assert {path for path, mode in modes.items() if path.is_file() and mode != expected} == set()


def test_the_network_was_never_touched(project):
    assert not project.network.exists(), project.network.read_text()


def test_what_the_run_says(project):
    err = project.made.err
    assert err.startswith("recipe: tiny (built in; no --recipe, and no run in runs/ yet), with ")
    for said in ("starting torch", "loading the model", "rehearsing", "saving sft/final", "next:\n  rlhf chat"):
        assert said in err
    assert "6 steps of 16" in err
    assert "Traceback" not in err and "Warning" not in err
    assert "Ranking accuracy by kind of pair" in project.made.out


def test_the_resolved_recipe_and_the_record(project):
    recipe = yaml.safe_load((project.run / "recipe.yaml").read_text())
    record = json.loads((project.run / "run.json").read_text())
    assert recipe["sft"]["max_steps"] == 6
    assert set(record["parts"]) == {"data", "sft", "reward", "eval"}
    assert record["parts"]["sft"]["steps"] == record["parts"]["reward"]["steps"] == 6
    assert record["commands"][0].startswith("rlhf run --set")


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_metrics(project, phase):
    found = lines(project.run / phase / "metrics.jsonl")
    training = [line for line in found if "loss" in line]
    keys = {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds"}
    assert [line["step"] for line in training] == [2, 4, 6]
    assert all(keys <= set(line) for line in training)
    assert [line["tokens"] for line in training] == sorted(line["tokens"] for line in training)
    assert [line["step"] for line in found if "eval_loss" in line] == [0, 4, 6]


def test_the_loss_falls(project):
    evaluations = [line["eval_loss"] for line in lines(project.run / "sft" / "metrics.jsonl") if "eval_loss" in line]
    assert evaluations[-1] < evaluations[0]


def test_the_results_of_sft(project):
    result = json.loads((project.run / "eval" / "sft.json").read_text())
    assert result["perplexity"] < result["base_perplexity"]
    final = lines(project.run / "sft" / "metrics.jsonl")[-1]
    assert result["perplexity"] == pytest.approx(math.exp(final["eval_loss"]), rel=1e-4)
    assert result["token_accuracy"] == pytest.approx(final["eval_token_accuracy"])
    assert set(result["exact_match"]) >= {"macro", "by_skill"}
    assert set(result["exact_match"]["by_skill"]) == {"facts", "greeting"}  # the third has no accepted answer


def test_the_results_of_the_reward_model(project):
    result = json.loads((project.run / "eval" / "reward.json").read_text())
    low, high = result["accuracy_ci95"]
    assert 0 <= low <= result["accuracy"] <= high <= 1
    assert {"ties", "pairs", "by_kind", "chosen_mean", "rejected_mean"} <= set(result)
    assert {"longer", "shorter", "bag_of_words"} <= set(result["baselines"])
    assert result["accuracy"] == pytest.approx(lines(project.run / "reward/metrics.jsonl")[-1]["eval_accuracy"])
    assert sum(kind["pairs"] for kind in result["by_kind"].values()) == result["pairs"]


# --- what others load ---------------------------------------------------------------------------------------


def test_the_fine_tuned_model_is_base_and_adapter(project):
    final = project.run / "sft" / "final"
    merged = AutoModelForCausalLM.from_pretrained(final).eval()
    base = AutoModelForCausalLM.from_pretrained(resolve("builtin:tiny"), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, final / "adapter").eval()
    ids = torch.tensor([DataStore(project.run / "data").dialogues("validation")[0].ids])
    with torch.no_grad():
        ours, theirs = merged(ids).logits, adapted(ids).logits
        before = load_causal_lm("builtin:tiny")(ids).logits
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours - before).abs().max() > 1e-2


def test_the_reward_model_gives_our_scores(project):
    final = project.run / "reward" / "final"
    theirs = AutoModelForSequenceClassification.from_pretrained(final).eval()
    pairs = DataStore(project.run / "data").pairs("validation")
    sequences = [pair.sequences[0] for pair in pairs[:4]]
    with torch.no_grad():
        scores = torch.stack([theirs(torch.tensor([ids])).logits[0, 0] for ids in sequences])
    assert (scores - load_reward_model(final).rewards(sequences)).abs().max() < 1e-4
    assert theirs.config.num_labels == 1 and theirs.config.problem_type == "regression"
    assert {"mean", "std"} <= set(theirs.config.to_dict())


@pytest.mark.parametrize("folder", ["sft/final", "reward/final"])
def test_the_saved_template_gives_the_ids_we_trained_on(project, folder):
    from rlhfcli import tiny

    tokenizer = AutoTokenizer.from_pretrained(project.run / folder)
    data = DataStore(project.run / "data")
    trained = {tuple(row.ids) for part in ("train", "validation") for row in data.dialogues(part)}
    rows = list(tiny.dialogues(20, 1234))
    found = [tuple(tokenizer.apply_chat_template(row["messages"], return_dict=False)) for row in rows]
    assert set(found) <= trained


def test_the_pad_token_is_not_the_end_token(project):
    tokenizer = load_tokenizer(str(project.run / "reward" / "final"))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    config = json.loads((project.run / "reward" / "final" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad_token_id


# --- the verbs afterwards -----------------------------------------------------------------------------------


def test_a_second_run_repeats_nothing(project, rlhf):
    before = {path: path.stat().st_mtime_ns for path in project.run.rglob("final/*")}
    done = rlhf("run", folder=project.folder)
    assert done.code == 0
    assert done.err.startswith(f"recipe: {Path('runs/tiny/recipe.yaml')} (the newest run in runs/)")
    assert done.err.count("already done, nothing to do") == 2
    assert "is up to date" in done.err
    assert {path: path.stat().st_mtime_ns for path in project.run.rglob("final/*")} == before


def test_eval_prints_json_alone(project, rlhf):
    done = rlhf("eval", "--json", folder=project.folder)
    assert done.code == 0
    assert {"sft", "reward"} == set(json.loads(done.out))
    assert json.loads(done.out)["sft"] == json.loads((project.run / "eval" / "sft.json").read_text())


def test_prepare_data_prints_json_alone(project, rlhf):
    done = rlhf("prepare-data", "--json", folder=project.folder)
    manifest = json.loads(done.out)
    assert done.code == 0
    for source in manifest["sources"]:
        assert source["read"] == source["kept"] + sum(source["dropped"].values()) == 150
    rejected = lines(project.run / "data" / "rejected_rows.jsonl")
    assert len(rejected) == sum(sum(source["dropped"].values()) for source in manifest["sources"])


def test_chat_answers_one_prompt_with_its_reward(project, rlhf):
    done = rlhf("chat", "--prompt", "Hello!", folder=project.folder)
    assert done.code == 0
    assert "reward " in done.out and "standard deviations" in done.out
    unscored = rlhf("chat", "--prompt", "Hello!", "--reward", "none", folder=project.folder)
    assert "reward " not in unscored.out
    assert done.out.startswith(unscored.out.rstrip("\n"))


def test_chat_in_a_pipe_remembers_its_turns(project, rlhf, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("My name is Zed.\n\nWhat is my name?\n/quit\nnever read\n"))
    done = rlhf("chat", "--set", "chat.max_new_tokens=6", folder=project.folder)
    assert done.code == 0
    assert done.out.count("reward ") == 2
    assert "\x1b" not in done.out and "you>" not in done.out


def test_a_finished_run_works_from_elsewhere_and_under_another_name(project, rlhf, tmp_path):
    shutil.copytree(project.run, tmp_path / "runs" / "renamed")
    done = rlhf("chat", "--prompt", "Hello!", folder=tmp_path)
    assert (done.code, done.err.splitlines()[0].split(" (")[0]) == (0, "recipe: runs/renamed/recipe.yaml")
    (tmp_path / "other").mkdir()
    assert rlhf("chat", "-r", str(project.run), "-p", "Hello!", folder=tmp_path / "other").code == 0


@pytest.fixture
def copy(project, tmp_path):
    """The project in another place, to be changed."""
    shutil.copytree(project.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_damaged_data_are_made_anew_before_they_are_used(copy, rlhf):
    file = copy / "runs" / "tiny" / "data" / "sft_validation.arrow"
    before = file.read_bytes()
    file.write_bytes(before[:-100] + bytes([before[-100] ^ 1]) + before[-99:])
    done = rlhf("prepare-data", "--json", folder=copy)
    assert done.code == 0 and file.read_bytes() == before
    assert "runs/tiny/data cannot be used (sft_validation.arrow is not as it was written), and is made anew" in done.err
    made = file.stat().st_ino
    done = rlhf("prepare-data", "--json", folder=copy)
    assert "is up to date" in done.err and file.stat().st_ino == made
    done = rlhf("prepare-data", "--json", "--overwrite", folder=copy)
    assert "is up to date" not in done.err and file.stat().st_ino != made and file.read_bytes() == before


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = [
    (["sft"], "the sft phase of this run is already done", "--overwrite trains it again"),
    (["reward"], "the reward phase of this run is already done", "--overwrite trains it again"),
    (["sft", "--set", "seed=5"], "made with other settings\nseed: 1234 (before) 5 (now)", "--set output_dir="),
    (["run", "--set", "data.max_length=64"], "settings\ndata.max_length: 256 (before) 64 (now)", "--set output_dir="),
    (["prepare-data", "--set", "data.validation=0.3"], "belongs to another recipe: sft and reward were", "--overwrite"),
    (
        ["eval", "--set", "data.validation=0.3"],
        "data.validation: 0.1 (before) 0.3 (now)",
        "leave out --recipe or --set",
    ),
    (["run", "-r", "opt125m", "--set", "output_dir=runs/tiny"], "belongs to another recipe", "--set output_dir="),
]


@pytest.mark.parametrize(("command", "what", "hint"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_is_refused_leaves_everything_as_it_was(copy, rlhf, command, what, hint):
    before = _contents(copy)
    done = rlhf(*command, folder=copy)
    assert (done.code, done.out) == (2, "")
    assert what in done.err and hint in done.err and "Traceback" not in done.err
    assert _contents(copy) == before


WRITING = ("sft --overwrite", "reward --overwrite", "prepare-data", "run", "eval", "export sft out")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", '{"parts": {"sft": {"steps": "x"}}}', "parts.sft.steps: must be a whole number"),
        ("run.json", '{"updated": "2026', "run.json: is not JSON"),
        ("recipe.yaml", "seed: [", "recipe.yaml:1"),
    ],
)
def test_an_edited_file_of_a_run_is_one_message_in_every_verb(copy, rlhf, name, text, said):
    (copy / "runs/tiny" / name).write_text(text)
    before = _contents(copy)
    for command in WRITING:
        done = rlhf(*command.split(), "--recipe", "runs/tiny", folder=copy)
        assert (done.code, done.out) == (2, ""), command
        assert said in done.err and "Traceback" not in done.err, command
    assert _contents(copy) == before
    done = rlhf("runs", folder=copy)
    assert done.code == 0 and "tiny" in done.out


def test_overwrite_trains_again(copy, rlhf):
    before = (copy / "runs/tiny/sft/final/model.safetensors").read_bytes()
    done = rlhf("sft", "--overwrite", "--set", "sft.max_steps=2", folder=copy)
    assert done.code == 0, done.err
    assert (copy / "runs/tiny/sft/final/model.safetensors").read_bytes() != before
    assert lines(copy / "runs/tiny/sft/metrics.jsonl")[-1]["step"] == 2


def test_reward_before_sft(rlhf, tmp_path):
    done = rlhf("reward", *changes(eval__prompts="null"), folder=tmp_path)
    assert done.code == 2
    assert "starts from the fine-tuned model, which is not there yet" in done.err
    assert "--set reward.init_from=base" in done.err
