"""Unusable model folders: one error each that says what to do, whatever transformers raises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rlhfcli.core.model_files.load_errors import explained
from rlhfcli.core.models.loading import load_causal_lm
from rlhfcli.core.models.reward_model import load_reward_model
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.errors import ModelError
from tests.core import families

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4096\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a valid model folder."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    families.causal_lm("opt").save_pretrained(folder)
    words = {"<unk>": 0, "<pad>": 1, "</s>": 2, "word": 3}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """Copy the valid folder, to damage it."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def _change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _other_family(folder: Path) -> None:
    small = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=64, is_decoder=True
    )
    BertModel(small).save_pretrained(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no keys"),
    "a pointer in place of the weights": (
        lambda f: (f / "model.safetensors").write_text(POINTER),
        "model.safetensors is a pointer of Git LFS, not the file itself",
    ),
    "a pickle that holds more": (
        lambda f: (torch.save({"x": Path("x")}, f / "pytorch_model.bin"), (f / "model.safetensors").unlink()),
        "the file is a pickle that holds more than tensors",
    ),
    "config of no family": (lambda f: (f / "config.json").write_text("{}"), "the model cannot be loaded"),
    "wrong type in the config": (lambda f: _change_config(f, num_attention_heads="x"), "num_attention_heads"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "the model folder has no weights"),
    "cut off weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:9000]),
        "the model cannot be loaded",
    ),
    "no safetensors at all": (lambda f: (f / "model.safetensors").write_bytes(b""), "the model cannot be loaded"),
    "weights of fewer layers": (_without_a_layer, "the weights do not fill the model: 16 tensors are missing"),
    "weights of another kind": (_other_family, "the weights do not fill the model"),
    "weights of another shape": (
        lambda f: _change_config(f, ffn_dim=48),
        "6 tensors have another shape than config.json says",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_folder_is_one_error(name: str, folder: Path) -> None:
    breaks, message = BROKEN[name]
    breaks(folder)
    with pytest.raises(ModelError) as caught:
        load_causal_lm(str(folder))
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


BROKEN_TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gibberish": (lambda f: (f / "tokenizer.json").write_text("gibberish{"), "the tokenizer cannot be loaded"),
    "another JSON": (lambda f: (f / "tokenizer.json").write_text('{"a": 1}'), "the tokenizer cannot be loaded"),
    "settings are a list": (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "the tokenizer cannot be load"),
    "none": (lambda f: [file.unlink() for file in f.glob("tokenizer*")], "no tokenizer"),
}


@pytest.mark.parametrize("name", BROKEN_TOKENIZERS)
def test_a_broken_tokenizer_is_one_error(name: str, folder: Path) -> None:
    breaks, message = BROKEN_TOKENIZERS[name]
    breaks(folder)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder), "human_assistant")
    assert message in str(caught.value)


def test_a_missing_sentencepiece_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    monkeypatch.setattr("rlhfcli.core.model_files.model_folder.find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder))
    assert "SentencePiece model (tokenizer.model), and the package sentencepiece is missing" in caught.value.what
    assert "pip install sentencepiece" in str(caught.value.hint)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_not_an_error_of_the_folder(folder: Path, error: Exception) -> None:
    with pytest.raises(type(error)), explained(str(folder), "model"):
        raise error


def test_a_builtin_model_is_not_searched_on_the_hub() -> None:
    with (
        pytest.raises(ModelError, match="the model cannot be loaded: x"),
        explained("builtin:tiny", "model"),
    ):
        raise ValueError("x")


def test_a_valid_folder_loads(folder: Path) -> None:
    assert load_causal_lm(str(folder)).config.model_type == "opt"
    assert load_tokenizer(str(folder)).pad_token == "<pad>"


def test_a_reward_model_without_its_head_is_refused(tmp_path: Path) -> None:
    families.classifier("opt").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fill the model: 1 tensor is missing.*score\.weight"):
        load_reward_model(tmp_path)
