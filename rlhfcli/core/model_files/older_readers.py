"""What a saved folder says twice, so that servers on transformers 4 read it, too.

Since version 5 transformers writes all rotary settings as ``rope_parameters``, which version 4 passes over: it takes
the family's default base, and gives other numbers without a word. And its tokenizer class version 4 does not
know. Both versions read what is written here; that this one still reads the same config is tried.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_NEW_CLASS, _OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
_LAYERS, _WINDOWS = "full_attention", "sliding_attention"


def say_twice(folder: Path) -> None:
    """Add what older versions look for to the config and the tokenizer's settings of a folder.

    Args:
        folder: Of a model, an adapter or a tokenizer; files that are not there are none.
    """
    _config(folder)
    file = folder / _TOKENIZER
    if not file.is_file():
        return
    said = json.loads(file.read_text(encoding="utf-8"))
    if said.get("tokenizer_class") != _NEW_CLASS:
        return
    said["tokenizer_class"] = _OLD_CLASS
    if isinstance(said.get("extra_special_tokens"), list):  # version 4 expects names for them there
        said["additional_special_tokens"] = said.pop("extra_special_tokens")
    _write(file, said)


def older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings of a config under the names of transformers 4.

    Args:
        config: What ``config.json`` says.

    Returns:
        Keys to add; empty for a model without rotary positions, and for settings that version 4 did not have.
    """
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict):
        return {}
    found: dict[str, Any] = {}
    if isinstance(rotary.get(_LAYERS), dict):  # Gemma 3's two kinds of layers
        windows = rotary.get(_WINDOWS)
        if isinstance(windows, dict) and "rope_theta" in windows:
            found["rope_local_base_freq"] = windows["rope_theta"]
        rotary = rotary[_LAYERS]
    names = _OLD_NAMES.get(str(config.get("model_type")), {})
    for key in ("rope_theta", "partial_rotary_factor"):
        if rotary.get(key) is not None:
            found[names.get(key, key)] = rotary[key]
    if rotary.get("rope_type", "default") != "default":
        found["rope_scaling"] = rotary
    return {key: value for key, value in found.items() if key not in config}


def _config(folder: Path) -> None:
    file = folder / _CONFIG
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    said = json.loads(text)
    more = older_keys(said)
    for part in ("text_config",):
        if isinstance(said.get(part), dict) and (inner := older_keys(said[part])):
            more[part] = said[part] | inner
    if not more or "auto_map" in said:  # what code of the model's own makes of it is not tried
        return
    before = _read(folder)
    _write(file, said | more)
    if _read(folder) != before:
        file.write_text(text, encoding="utf-8")


def _read(folder: Path) -> dict[str, Any] | None:
    """The rotary settings that transformers reads; ``None`` where it refuses the config."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except Exception:  # a config with anything in it makes transformers raise anything
        return None
    return {"rotary": getattr(config, "rope_parameters", None)}


def _write(file: Path, said: dict[str, Any]) -> None:
    file.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
