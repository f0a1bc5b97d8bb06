"""Code that comes with a model does not run unless trust_remote_code allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhfcli.core.models import lora_files
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.publish.saving import save_model
from rlhfcli.errors import ModelError
from tests.core import families, folders


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Save a folder without checksums, as other programs do."""
    save_model(families.causal_lm("opt"), folders.tokenizer(), tmp_path / "m", None, "")
    (tmp_path / "m" / "B2SUMS").unlink()
    return tmp_path / "m"


def test_weights_that_are_a_pickle_do_not_run(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"model.decoder.embed_tokens.weight": Evil(tmp_path / "ran")}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle that holds more than tensors"):
        load_causal_lm(str(model))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_tensors_is_read(model: Path) -> None:
    whole = load_causal_lm(str(model))
    (model / "model.safetensors").unlink()
    torch.save(whole.state_dict(), model / "pytorch_model.bin")
    again = load_causal_lm(str(model))
    ids = torch.tensor(families.token_ids([9]))
    assert torch.equal(whole(ids).logits, again(ids).logits)


def test_a_pickled_adapter_is_not_opened(tmp_path: Path) -> None:
    lora_files.save_adapter(
        folders.adapted(families.causal_lm("opt")), tmp_path / "a", folders.SETTINGS, "b", "CAUSAL_LM"
    )
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save({"x": Evil(tmp_path / "ran")}, tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ModelError, match="a pickle file, which is not read"):
        lora_files.load_adapter(families.causal_lm("opt"), tmp_path / "a")
    assert not (tmp_path / "ran").exists()


def _custom(model: Path, mark: Path) -> None:
    """Let the folder name code of its own for every class."""
    (model / "own.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    names = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoModelForSequenceClassification": "own.M"}
    for file, added in (("config.json", {"model_type": "own"}), ("tokenizer_config.json", {"tokenizer_class": "OwnT"})):
        content = json.loads((model / file).read_text()) | added
        content["auto_map"] = names if file == "config.json" else {"AutoTokenizer": ["own.T", "own.T"]}
        (model / file).write_text(json.dumps(content))


@pytest.mark.parametrize("load", [load_causal_lm, load_reward_model, load_tokenizer])
def test_code_beside_a_model_does_not_run(load: Any, model: Path, tmp_path: Path) -> None:
    _custom(model, tmp_path / "ran")
    with pytest.raises(ModelError):
        load(str(model))
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_tokenizer_runs_only_if_trusted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user must not be asked"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    _custom(model, tmp_path / "ran")
    with pytest.raises(ModelError):
        load_tokenizer(str(model))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ModelError):  # it runs, and turns out to hold no tokenizer
        load_tokenizer(str(model), trust_remote_code=True)
    assert (tmp_path / "ran").exists()
