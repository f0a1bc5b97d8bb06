"""The keys that transformers 4 reads in a folder saved by version 5; compared with version 4.57 once, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig

from rlhfcli.core.publish.saving import save_model
from tests.core import families, folders

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 300.0}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a base of its own": (
        lambda: LlamaConfig(**families.NEW, num_key_value_heads=2, rope_parameters=PLAIN),
        {"rope_theta": 300.0},
    ),
    "Llama 3's": (
        lambda: LlamaConfig(**families.NEW, num_key_value_heads=2, rope_parameters=dict(LLAMA3)),
        {"rope_theta": 5000.0, "rope_scaling": LLAMA3},
    ),
    "GPT-NeoX's names": (
        lambda: GPTNeoXConfig(**families.NEW, rope_parameters=PLAIN | {"partial_rotary_factor": 0.5}),
        {"rotary_emb_base": 300.0, "rotary_pct": 0.5},
    ),
    "two kinds of layers": (
        lambda: Gemma3TextConfig(
            **families.NEW,
            num_key_value_heads=2,
            head_dim=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"full_attention": dict(PLAIN), "sliding_attention": PLAIN | {"rope_theta": 50.0}},
        ),
        {"rope_theta": 300.0, "rope_local_base_freq": 50.0},
    ),
    "no rotation": (lambda: families.config("opt"), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_rotary_settings_have_both_names(name: str, tmp_path: Path) -> None:
    make, added = CASES[name]
    model = AutoModelForCausalLM.from_config(make(), dtype=torch.float32).eval()
    model.config.pad_token_id = 1
    save_model(model, folders.tokenizer(), tmp_path / "m", None, "")
    saved = json.loads((tmp_path / "m" / "config.json").read_text())
    assert {key: saved.get(key) for key in added} == added
    again = AutoConfig.from_pretrained(tmp_path / "m")
    assert getattr(again, "rope_parameters", None) == getattr(model.config, "rope_parameters", None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ids = torch.tensor(families.token_ids([12]))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_tokenizer_has_a_class_that_both_versions_know(tmp_path: Path) -> None:
    save_model(families.causal_lm("opt"), folders.chatml(), tmp_path / "m", None, "")
    saved = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert saved["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"] and "extra_special_tokens" not in saved
    again, before = AutoTokenizer.from_pretrained(tmp_path / "m"), folders.chatml()
    assert again.get_vocab() == before.get_vocab() and again.all_special_tokens == before.all_special_tokens
    assert again.chat_template == before.chat_template
    text = "<|im_start|> w5 w9 <|im_end|>"
    assert again(text)["input_ids"] == before(text)["input_ids"] == [128, 5, 9, 129]
