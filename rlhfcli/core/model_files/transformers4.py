"""Duplicate keys in saved folders, so that programs with transformers 4 read them as well.

Since version 5 transformers writes all rotary settings as ``rope_parameters``. Version 4 ignores that key, takes the
family's default base, and silently computes other numbers; nor does it know the class of the tokenizer. The keys that
are added here are read by both versions, and a config is written only if version 5 still reads it as before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_NEW_CLASS, _OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
_OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
_FULL, _WINDOWED = "full_attention", "sliding_attention"


def add_older_keys(folder: Path) -> None:
    """Add the keys that transformers 4 reads to the config and to the tokenizer's settings of a folder.

    Args:
        folder: The folder of a model, an adapter or a tokenizer; missing files are skipped.
    """
    _extend_config(folder)
    file = folder / _TOKENIZER
    if not file.is_file():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") != _NEW_CLASS:
        return
    settings["tokenizer_class"] = _OLD_CLASS
    if isinstance(settings.get("extra_special_tokens"), list):  # in version 4 this key is a mapping from names
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    _write(file, settings)


def older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of a config under their names in transformers 4.

    Args:
        config: The content of ``config.json``, or of its ``text_config``.

    Returns:
        The keys to add; empty for a model without rotary positions, or with settings that version 4 did not have.
    """
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict):
        return {}
    keys: dict[str, Any] = {}
    if isinstance(rotary.get(_FULL), dict):  # Gemma 3 has two kinds of layers
        windowed = rotary.get(_WINDOWED)
        if isinstance(windowed, dict) and "rope_theta" in windowed:
            keys["rope_local_base_freq"] = windowed["rope_theta"]
        rotary = rotary[_FULL]
    names = _OLD_NAMES.get(str(config.get("model_type")), {})
    for key in ("rope_theta", "partial_rotary_factor"):
        if rotary.get(key) is not None:
            keys[names.get(key, key)] = rotary[key]
    if rotary.get("rope_type", "default") != "default":
        keys["rope_scaling"] = rotary
    return {key: value for key, value in keys.items() if key not in config}


def _extend_config(folder: Path) -> None:
    file = folder / _CONFIG
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    config = json.loads(text)
    added = older_keys(config)
    inner = config.get("text_config")
    if isinstance(inner, dict) and (added_inside := older_keys(inner)):
        added["text_config"] = inner | added_inside
    if not added or "auto_map" in config:  # a model's own code may read the keys in another way
        return
    before = _rotary_settings(folder)
    _write(file, config | added)
    if _rotary_settings(folder) != before:
        file.write_text(text, encoding="utf-8")


def _rotary_settings(folder: Path) -> dict[str, Any] | None:
    """Read the rotary settings with the installed transformers; ``None`` where it refuses the config."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except Exception:  # with arbitrary configs transformers raises arbitrary exceptions
        return None
    return {"rotary": getattr(config, "rope_parameters", None)}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
