"""Adapters of other programs: which are read, and which are refused rather than read wrongly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from rlhfcli.core.models import lora_files
from rlhfcli.errors import ModelError
from tests.core import families, folders

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"r": 10**12}, "says rank 1000000000000, its weights have 4"),
    ({"r": 5}, "says rank 5, its weights have 4"),
    ({"r": "4"}, "r cannot be '4'"),
    ({"r": None}, "r cannot be None"),
    ({"lora_alpha": math.nan}, "lora_alpha cannot be nan"),
    ({"lora_alpha": 289035010049.0}, r"lora_alpha cannot be 2.89035e\+11"),  # the scores would be no numbers
    ({"lora_alpha": 2**53}, "lora_alpha cannot be 9007199254740992"),
    ({"lora_alpha": 10**400}, "lora_alpha cannot be 1000"),
    ({"lora_dropout": 1.5}, "lora_dropout cannot be 1.5"),
    ({"target_modules": None}, "target_modules cannot be None"),
    ({"target_modules": [1]}, "target_modules cannot be"),
    ({"use_rslora": "yes"}, "use_rslora cannot be 'yes'"),
    ({"use_dora": True}, "only plain LoRA"),
    ({"init_lora_weights": "pissa_niter_4"}, "only plain LoRA"),  # it changes the base weights, too
    ({"rank_pattern": {"q_proj": 8}}, "only plain LoRA"),
    ({"modules_to_save": ["lm_head"]}, "only plain LoRA"),  # tied to the embedding
    ({"bias": "all"}, "only plain LoRA"),
    ({"peft_type": "IA3"}, "only plain LoRA"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[next(iter(change)) for change, _ in REFUSED])
def test_unsupported_and_invalid_configurations_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model = folders.adapted(families.causal_lm("opt"))
    lora_files.save_adapter(model, tmp_path, folders.SETTINGS, "base", "CAUSAL_LM")
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text()) | change
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        lora_files.load_adapter(families.causal_lm("opt"), tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "{", "\udcff", "[" * 100_000])
def test_a_configuration_that_is_not_a_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / ADAPTER_CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"adapter_config.json"):
        lora_files.load_adapter(families.causal_lm("opt"), tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    lora_files.save_adapter(folders.adapted(families.causal_lm("opt")), tmp_path, folders.SETTINGS, "base", "CAUSAL_LM")
    content = (tmp_path / ADAPTER_WEIGHTS).read_bytes()
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="the adapter's weights cannot be read"):
        lora_files.load_adapter(families.causal_lm("opt"), tmp_path)


@pytest.mark.parametrize("family", families.SIX)
def test_a_reward_adapter_from_peft_keeps_its_head(family: str, tmp_path: Path) -> None:
    # PEFT names every head that a family might have: classifier and score
    targets = {"gpt2": ["c_attn"], "gpt-neox": ["query_key_value"], "bloom": ["query_key_value"]}
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets.get(family, ["q_proj", "v_proj"]),
        task_type="SEQ_CLS",
        init_lora_weights=False,
        fan_in_fan_out=family == "gpt2",
    )
    theirs = get_peft_model(families.classifier(family), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("score.modules_to_save.default.weight"):
                parameter.normal_()
    theirs.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / ADAPTER_CONFIG).read_text())["modules_to_save"] == ["classifier", "score"]
    ours = families.classifier(family)
    lora_files.load_adapter(ours, tmp_path)
    ids = torch.tensor(families.token_ids([9]))
    with torch.no_grad():
        assert (theirs(ids).logits - ours(ids).logits).abs().max() <= 1e-4
