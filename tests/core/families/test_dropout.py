"""``model.dropout`` over a table of families: what is set, what is left alone, and how it is described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from rlhfcli.core.families.dropout import dropout_of, restore_config_dropout, set_config_dropout, set_module_dropout
from tests.core.families import IDS, NEW, OPT

GPT: dict[str, Any] = IDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
# config with dropouts above zero, and the names of those that take the recipe's value
TABLE: dict[str, tuple[Any, set[str]]] = {
    "opt": (
        lambda: transformers.OPTConfig(**OPT | {"dropout": 0.2, "layerdrop": 0.3}, word_embed_proj_dim=32),
        {"dropout"},
    ),
    "opt with all of them": (
        lambda: transformers.OPTConfig(
            **OPT | {"dropout": 0.2}, attention_dropout=0.3, activation_dropout=0.4, word_embed_proj_dim=32
        ),
        {"dropout", "attention_dropout"},
    ),
    "gpt2": (lambda: transformers.GPT2Config(**GPT), {"resid_pdrop", "embd_pdrop", "attn_pdrop"}),
    "gptj": (
        lambda: transformers.GPTJConfig(**GPT, rotary_dim=4, attn_pdrop=0.2, resid_pdrop=0.3),
        {"attn_pdrop", "resid_pdrop"},
    ),
    "gpt-neo": (
        lambda: transformers.GPTNeoConfig(
            **IDS, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            resid_dropout=0.1, embed_dropout=0.2, attention_dropout=0.3,
        ),
        {"resid_dropout", "embed_dropout", "attention_dropout"},
    ),
    "mpt": (
        lambda: _mpt(),
        {"resid_pdrop", "attn_config.attn_pdrop"},
    ),
    "seed-oss": (
        lambda: transformers.SeedOssConfig(
            **NEW, num_key_value_heads=2, head_dim=8, residual_dropout=0.2, attention_dropout=0.1
        ),
        {"residual_dropout", "attention_dropout"},
    ),
    "biogpt": (
        lambda: transformers.BioGptConfig(**NEW, hidden_dropout_prob=0.2, layerdrop=0.4, activation_dropout=0.1),
        {"hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"},
    ),
    "falcon": (
        lambda: transformers.FalconConfig(
            **IDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0.3, attention_dropout=0.2
        ),
        {"hidden_dropout", "attention_dropout"},
    ),
    "bloom": (
        lambda: transformers.BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.2),
        {"hidden_dropout"},
    ),
    "gpt-neox": (
        lambda: transformers.GPTNeoXConfig(**NEW, hidden_dropout=0.2, attention_dropout=0.1),
        {"hidden_dropout", "attention_dropout"},
    ),
    "persimmon": (
        lambda: transformers.PersimmonConfig(**NEW, hidden_dropout=0.2, attention_dropout=0.1),
        {"hidden_dropout", "attention_dropout"},
    ),
    "phi3": (
        lambda: transformers.Phi3Config(**NEW, num_key_value_heads=2, resid_pdrop=0.2, embd_pdrop=0.1),
        {"resid_pdrop", "embd_pdrop"},
    ),
    "starcoder2": (
        lambda: transformers.Starcoder2Config(
            **NEW, num_key_value_heads=2, residual_dropout=0.1, embedding_dropout=0.2, attention_dropout=0.3
        ),
        {"residual_dropout", "embedding_dropout", "attention_dropout"},
    ),
    "llama": (lambda: transformers.LlamaConfig(**NEW, num_key_value_heads=2), set()),
}  # fmt: skip


def _mpt() -> Any:
    config = transformers.MptConfig(**IDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=128, resid_pdrop=0.2)
    vars(config.attn_config)["attn_pdrop"] = 0.3  # written as integers, meant as rates
    return config


def _made(family: str, value: float) -> Any:
    torch.manual_seed(0)
    config = TABLE[family][0]()
    found = set_config_dropout(config, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    set_module_dropout(model, found)
    return model


def _differs(model: Any) -> bool:
    """Whether two passes of a model that is trained differ from one that is not."""
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        whole = model.eval()(ids).logits
        return not all(torch.allclose(model.train()(ids).logits, whole, atol=1e-5) for _ in range(2))


@pytest.mark.parametrize("family", TABLE)
def test_zero_is_no_dropout_anywhere(family: str) -> None:
    assert not _differs(_made(family, 0.0))


@pytest.mark.parametrize("family", TABLE)
def test_rates_above_zero_are_set_and_layers_never_dropped(family: str) -> None:
    model, expected = _made(family, 0.25), TABLE[family][1]
    found = dropout_of(model)
    assert expected <= found.own.keys()
    assert all("layer" not in name for name in found.own)
    settings = model.config.to_dict()
    assert all(value == 0.25 for name in expected for value in [_value(settings, name)])
    assert not any(value for name, value in settings.items() if "layerdrop" in name)
    assert not any(getattr(module, "layerdrop", 0) for module in model.modules())
    assert _differs(model) == bool(expected)


def _value(settings: dict[str, Any], name: str) -> float:
    for part in name.split("."):
        settings = settings[part]
    return float(settings)  # type: ignore[arg-type]


def test_rates_at_zero_stay_zero() -> None:
    config = transformers.OPTConfig()
    set_config_dropout(config, 0.1)
    assert (config.dropout, config.attention_dropout, config.layerdrop) == (0.1, 0, 0)


class _Odd(torch.nn.Module):
    """Written by somebody with a rate of his own, and with layers that are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.never = torch.nn.Dropout(0.3), torch.nn.Dropout(0.0)
        self.drop_path = 0.5
        self.hidden_drop = 0.2


def test_rates_that_no_config_names_are_found_in_the_modules() -> None:
    model = _Odd()
    set_module_dropout(model, set_config_dropout(transformers.LlamaConfig(), 0.1))
    assert (model.fixed.p, model.never.p, model.hidden_drop, model.drop_path) == (0.1, 0, 0.1, 0)
    assert dropout_of(model).own == {"fixed.p": 0.3, ".hidden_drop": 0.2}


def test_a_saved_model_has_its_own_dropouts(tmp_path: Path) -> None:
    for family in ("opt", "mpt", "biogpt"):
        model = _made(family, 0.0)
        restore_config_dropout(model)
        model.save_pretrained(tmp_path / family)
        own, saved = TABLE[family][0]().to_dict(), json.loads((tmp_path / family / "config.json").read_text())
        assert saved.get("layerdrop") == own.get("layerdrop")
        assert all(_value(saved, name) == _value(own, name) for name in TABLE[family][1])


DESCRIPTIONS = {
    ("opt", 0.1): "dropout 0.1 in place of dropout 0.2 · layers are never dropped (its own: layerdrop 0.3)",
    ("opt", 0.0): "dropout off (its own: dropout 0.2) · layers are never dropped (its own: layerdrop 0.3)",
    ("mpt", 0.1): "dropout 0.1 in place of resid_pdrop 0.2, attn_config.attn_pdrop 0.3",
    ("llama", 0.0): "",
    ("llama", 0.1): "model.dropout 0.1 changes nothing: this model's own config has none above zero",
}


@pytest.mark.parametrize(("family", "value"), DESCRIPTIONS)
def test_the_change_is_described(family: str, value: float) -> None:
    assert dropout_of(_made(family, value)).description() == DESCRIPTIONS[family, value]
