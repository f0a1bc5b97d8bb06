"""``rlhf export`` as a user types it, on a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhfcli.core.model_files import deepspeed_chat_format
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.data.store.prepared import DataStore
from tests.core.publish.test_model_card import code_of
from tests.e2e.conftest import start


@pytest.fixture
def sequences(project):
    pairs = DataStore(project.run / "data").pairs("validation")
    return [pair.sequences[0] for pair in pairs[:4]]


def scores(model, sequences):
    with torch.no_grad():
        return torch.stack([model(torch.tensor([list(ids)])).logits[0, 0] for ids in sequences])


def test_a_reward_model(project, rlhf, tmp_path, sequences):
    to = tmp_path / "out"
    done = rlhf("export", "reward", str(to), "--shard-size", "2MB", folder=project.folder)
    assert done.code == 0, done.err
    assert len(list(to.glob("model-*.safetensors"))) > 1
    theirs = AutoModelForSequenceClassification.from_pretrained(to).eval()
    ours = load_reward_model(project.run / "reward" / "final").rewards(sequences)
    assert (scores(theirs, sequences) - ours).abs().max() <= 1e-4
    assert done.out.count("the same") == 5 and "differs" not in done.out
    assert "scores at the last token of 3" in done.out and "of the validation data" in done.out
    card = (to / "README.md").read_text()
    assert "95 % interval" in card and "builtin:tiny/pairs" in card and str(project.folder) not in card


def test_a_language_model_and_its_card(project, rlhf, tmp_path, monkeypatch, capsys):
    to = tmp_path / "out"
    done = rlhf("export", "sft", str(to), folder=project.folder)
    assert done.code == 0, done.err
    assert done.out.count("the same") == 3
    assert "(base model:" in (to / "README.md").read_text()
    monkeypatch.chdir(to)
    exec(code_of(to), {})
    assert "Human: Hello!" in capsys.readouterr().out


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_an_adapter(project, rlhf, tmp_path, sequences, phase, monkeypatch):
    to = tmp_path / "out"
    done = rlhf("export", phase, str(to), "--format", "adapter", folder=project.folder)
    assert done.code == 0, done.err
    assert done.out.count("the same") == 1 and "PEFT" in done.out
    base = json.loads((to / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).is_absolute() and Path(base).is_dir()  # it is found from every folder
    if phase == "reward":
        body = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        theirs = PeftModel.from_pretrained(body, str(to)).eval()
        ours = load_reward_model(project.run / "reward" / "final").rewards(sequences)
        assert (scores(theirs, sequences) - ours).abs().max() <= 1e-4
    else:
        assert AutoModelForCausalLM.from_pretrained(base)
    option = {"sft": "--model", "reward": "--reward"}[phase]
    done = rlhf("chat", "--prompt", "Hello!", option, str(to), folder=project.folder)
    assert done.code == 0, done.err
    monkeypatch.chdir(to)
    exec(code_of(to), {})


def test_deepspeed_chats_keys_and_back(project, rlhf, tmp_path, sequences):
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    done = rlhf("export", "reward", str(theirs), "--format", "deepspeed-chat", folder=project.folder)
    assert done.code == 0, done.err
    names = set(torch.load(theirs / "pytorch_model.bin", weights_only=True))
    assert "v_head.weight" in names and all(name.startswith(("rwtransformer.", "v_head.")) for name in names)
    done = rlhf("export", str(theirs), str(back))
    assert done.code == 0, done.err
    ours = load_reward_model(project.run / "reward" / "final").rewards(sequences)
    plain = AutoModelForSequenceClassification.from_pretrained(back).eval()
    assert (scores(plain, sequences) - ours).abs().max() <= 1e-4
    assert deepspeed_chat_format.is_checkpoint(theirs) and not deepspeed_chat_format.is_checkpoint(back)


@pytest.mark.parametrize("folder", ["sft/final", "reward/final", "sft/final/adapter", "reward/final/adapter"])
def test_check_alone(project, rlhf, folder, tmp_path):
    done = rlhf("export", "--check", str(project.run / folder), folder=tmp_path)  # from anywhere
    assert done.code == 0, done.err
    assert "PEFT" in done.out and "not checked" not in done.out


def test_the_table_is_all_that_is_on_stdout(project):
    process = start("export", "--check", "runs/tiny/reward/final", folder=project.folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.startswith("The same numbers elsewhere") and "accelerator" not in out + err


@pytest.fixture
def copy(project, tmp_path):
    shutil.copytree(project.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_figures_and_card_are_those_of_the_training_whatever_the_recipe_says(copy, rlhf):
    other, recipe = ("--set", "sft.learning_rate=0.5"), (copy / "runs/tiny/recipe.yaml").read_bytes()
    done = rlhf("eval", *other, folder=copy)
    assert done.code == 0, done.err
    assert "sft and reward were trained with other settings than this recipe's; what is measured is what" in done.err
    assert "sft.learning_rate: 0.003 (trained) 0.5 (now)" in done.err.splitlines()
    assert (copy / "runs/tiny/recipe.yaml").read_bytes() == recipe
    done = rlhf("export", "sft", "out", "--no-check", *other, folder=copy)
    assert done.code == 0, done.err
    card = (copy / "out/README.md").read_text()
    assert "learning rate 0.003 " in card and "learning_rate: 0.003" in card and "learning rate 0.5" not in card


def test_other_numbers_end_with_1(copy, rlhf, monkeypatch):
    from rlhfcli.core.publish import conformance

    monkeypatch.setattr(conformance, "TOLERANCE", -1.0)
    done = rlhf("export", "--check", "runs/tiny/reward/final", folder=copy)
    assert done.code == 1
    assert "gives other numbers elsewhere" in done.err and "differs" in done.out
    done = rlhf("export", "reward", "out", folder=copy)
    assert done.code == 1 and "differs" in done.out
    assert (
        "other programs would compute other numbers from this export" in done.err and "Nothing was written" in done.err
    )
    assert not (copy / "out").exists()


def test_the_folder_of_an_adapter_becomes_a_plain_model(copy, rlhf):
    done = rlhf("export", "runs/tiny/sft/final/adapter", "out", "--no-check", folder=copy)
    assert done.code == 0, done.err
    names = load_file(copy / "out" / "model.safetensors").keys()
    assert names == load_file(copy / "runs/tiny/sft/final/model.safetensors").keys()


def test_a_damaged_model_is_not_exported(copy, rlhf):
    weights = copy / "runs/tiny/reward/final/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    done = rlhf("export", "reward", "out", folder=copy)
    assert done.code == 2 and "is not what was saved" in done.err
    assert not (copy / "out").exists()


def test_nothing_is_replaced_without_being_asked(copy, rlhf):
    (copy / "out").mkdir()
    assert rlhf("export", "sft", "out", "--no-check", folder=copy).code == 0  # an empty folder is none
    done = rlhf("export", "sft", "out", folder=copy)
    assert done.code == 2 and "out: this folder exists" in done.err and "--overwrite" in done.err
    done = rlhf("export", "reward", "out", "--overwrite", "--no-check", folder=copy)
    assert done.code == 0 and "the same" not in done.out
    assert "SequenceClassification" in (copy / "out/config.json").read_text()
    (copy / "thesis").mkdir()
    (copy / "thesis" / "chapter1.txt").touch()
    for place in ("thesis", "thesis/chapter1.txt"):
        done = rlhf("export", "sft", place, "--overwrite", folder=copy)
        assert done.code == 2 and "something else is there" in done.err
    assert (copy / "thesis" / "chapter1.txt").exists()


@pytest.mark.parametrize("to", ["runs/tiny/sft/final", "runs/tiny/sft/final/adapter", "runs/tiny/sft/final/new"])
def test_the_source_is_not_overwritten(copy, rlhf, to):
    before = sorted(path for path in copy.rglob("*"))
    done = rlhf("export", "sft", to, "--overwrite", folder=copy)
    assert done.code == 2 and "this is the folder that is exported" in done.err
    assert sorted(path for path in copy.rglob("*")) == before


def test_full_fine_tuning_has_no_adapter(copy, rlhf):
    shutil.rmtree(copy / "runs/tiny/sft/final/adapter")
    done = rlhf("export", "sft", "out", "--format", "adapter", folder=copy)
    assert done.code == 2 and "there is no adapter to export" in done.err


def test_a_phase_that_is_not_done(copy, rlhf):
    shutil.rmtree(copy / "runs/tiny/reward/final")
    done = rlhf("export", "reward", "out", folder=copy)
    assert done.code == 2 and "nothing to export yet" in done.err and "rlhf reward" in done.err


WRONG = [
    ([], "say what to export and where to"),
    (["sft"], "rlhf export sft: TO is missing: where the export goes\nName a folder that is not there yet"),
    (["sft", "out", "--check", "x"], "say what to export and where to"),
    (["sft", "out", "--shard-size", "big"], "this is not a size"),
    (["nowhere", "out"], "nowhere: there is no such folder"),
    (["rewards", "out"], "rewards: there is no such folder\nDid you mean reward?"),
    (["runs/tiny", "out"], "no config.json\nDid you mean runs/tiny/sft/final or runs/tiny/reward/final?"),
    (["--check", "nowhere"], "nowhere: there is no such folder"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_wrong_arguments(project, rlhf, arguments, said):
    done = rlhf("export", *arguments, folder=project.folder)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (project.folder / "out").exists()
