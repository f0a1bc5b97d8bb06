"""A small model of the same kind, to try strategies on where the model itself cannot run.

A model that is partitioned among ranks (ZeRO stage 3), or that has no weights (a dry run), computes nothing by itself.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from rlhfcli.core.families.config_checks import set_pad
from rlhfcli.core.hardware import device

_VOCABULARY = 64


def make_stand_in(auto_class: Any, config: Any, *, trust_remote_code: bool) -> Any:
    """Make a random model of the same family, with as many layers as it has kinds of layers.

    Args:
        auto_class: ``AutoModelForCausalLM`` or ``AutoModelForSequenceClassification``.
        config: The large model's config.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The model in evaluation mode, on this process's device.
    """
    try:
        model = auto_class.from_config(_smaller(config), dtype=torch.float32, trust_remote_code=trust_remote_code)
    except Exception:  # families that list their layers under another key, too
        model = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model.to(device()).eval()


def _smaller(config: Any) -> Any:
    config = deepcopy(config)
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["attention"]
    layers = max(kinds.index(kind) for kind in set(kinds)) + 1
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = kinds[:layers]
    text.num_hidden_layers = layers
    text.vocab_size = min(text.vocab_size, _VOCABULARY)
    set_pad(config, None)
    return config
