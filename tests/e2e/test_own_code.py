"""A family whose code comes with the model: trained, measured and talked to, if the recipe asks for it by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlhfcli.core.models.loading import resolve
from tests.e2e.conftest import changes, start, write_prompts

CODE = """
from transformers import OPTConfig, OPTForCausalLM, OPTForSequenceClassification

class OwnConfig(OPTConfig):
    model_type = "own-opt"

class OwnForCausalLM(OPTForCausalLM):
    config_class = OwnConfig

class OwnForSequenceClassification(OPTForSequenceClassification):
    config_class = OwnConfig
"""
NAMES = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnForCausalLM",
    "AutoModelForSequenceClassification": "own.OwnForSequenceClassification",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(resolve("builtin:tiny"), folder / "base")
    (folder / "base" / "own.py").write_text(CODE)
    config = json.loads((folder / "base" / "config.json").read_text())
    config |= {"model_type": "own-opt", "architectures": ["OwnForCausalLM"], "auto_map": NAMES}
    (folder / "base" / "config.json").write_text(json.dumps(config))
    write_prompts(folder)
    return folder


def rlhf(folder: Path, *arguments: str, trust: str) -> tuple[int, str]:
    settings = changes(model__name="base", model__trust_remote_code=trust, sft__max_steps="2", reward__max_steps="2")
    process = start(*arguments, *settings, folder=folder, HF_MODULES_CACHE=str(folder / "modules"))
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def test_all_verbs_with_code_of_the_model(folder: Path) -> None:
    code, said = rlhf(folder, "run", trust="true")
    assert code == 0, said
    assert "OwnForCausalLM" in said and "OwnForSequenceClassification" in said
    run = folder / "runs" / "tiny"
    assert (run / "sft" / "final" / "own.py").exists() and (run / "eval" / "reward.json").exists()
    code, said = rlhf(folder, "chat", "--prompt", "Hello!", trust="true")
    assert code == 0 and "reward" in said, said
    assert f"runs the Python code of {run / 'sft' / 'final'} (own.py)" in said.replace("runs/tiny", str(run))
    run_recipe = (run / "recipe.yaml").read_text()
    assert "trust_remote_code: true" in run_recipe
    process = start("chat", "--recipe", "runs/tiny", "--reward", "none", "--prompt", "Hello!", folder=folder)
    _, err = process.communicate(timeout=300)  # the folder may be a stranger's
    assert process.returncode == 2 and "to run the Python code that comes with the model: --set" in err, err
    code, said = rlhf(folder, "chat", "--prompt", "Hello!", trust="false")
    assert code == 2 and "Traceback" not in said, said


def test_without_being_asked_nothing_runs(folder: Path) -> None:
    code, said = rlhf(folder, "sft", "--overwrite", trust="false")
    assert code == 2 and "trust_remote_code" in said and "Traceback" not in said, said
