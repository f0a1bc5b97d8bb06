"""Loading causal language models, and the configs of all models.

A model is loaded in float32, whatever it was saved in. What may run in a lower precision is the computation
(``torch.autocast``), never the weights that are trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlhfcli.core.families.config_checks import check_finite, fix_generation_config, prepare_config
from rlhfcli.core.families.dropout import set_config_dropout, set_module_dropout
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files.load_errors import check_filled, check_shapes, explained
from rlhfcli.core.model_files.model_folder import check_folder
from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.errors import ModelError
from rlhfcli.files import model_path
from rlhfcli.recipe import builtin


def resolve(name: str) -> str:
    """Return the folder or hub name that a recipe's ``model.name`` stands for.

    Args:
        name: Hub name, folder (``~`` is expanded) or ``builtin:tiny``.
    """
    if name == builtin.TINY:
        from rlhfcli import tiny

        return str(tiny.model_folder())
    return os.path.expanduser(name)


def load_causal_lm(name: str, *, trust_remote_code: bool = False, dropout: float = 0.0) -> PreTrainedModel:
    """Load a causal language model with float32 weights, ready for use on this process's device.

    Args:
        name: Hub name, local folder or ``builtin:tiny``.
        trust_remote_code: Run code that comes with the model.
        dropout: The dropout rate, in the place of the model's own (see ``families.dropout``).

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: It cannot be loaded, has no weights, or is a reward model.
    """
    folder = resolve(name)
    config = language_config(name, trust_remote_code=trust_remote_code)
    dropouts = set_config_dropout(config, dropout)
    with explained(name, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_shapes(name, report)
    check_filled(name, report["missing_keys"])
    check_finite(model, name)
    set_module_dropout(model, dropouts)
    fix_generation_config(model)
    return model.to(device()).eval()


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load the config of a model.

    Args:
        name: Hub name, folder or ``builtin:tiny``.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The transformers config.

    Raises:
        ModelError: There is none, it is not that of a transformers model, or the weights are quantised.
    """
    folder = resolve(name)
    model_path.check(folder if name == builtin.TINY else name)
    if os.path.isdir(folder):
        check_folder(Path(folder))
    with explained(name, "model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    prepare_config(config, name)
    return config


def peek_config(name: str, *, trust_remote_code: bool = False) -> Any | None:
    """Load the config of a model, or of an adapter's base model, without checking the weights beside it.

    Args:
        name: Hub name or folder.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The config; ``None`` where none can be read: loading the model will report why.
    """
    folder = Path(resolve(name))
    source = base_of(folder) if is_adapter(folder) else name
    try:
        with explained(source, "model"):
            return AutoConfig.from_pretrained(resolve(source), trust_remote_code=trust_remote_code)
    except ModelError:
        return None


def language_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load the config of a language model.

    Args:
        name: Hub name, folder or ``builtin:tiny``.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The transformers config.

    Raises:
        ModelError: There is none, or it is that of a reward model.
    """
    config = load_config(name, trust_remote_code=trust_remote_code)
    if is_reward_model(config):
        raise ModelError(
            "this is a reward model: it gives scores, it cannot talk",
            where=name,
            hint="Use it as the reward model (--reward), and a language model, such as .../sft/final, as the model.",
        )
    return config


def is_reward_model(config: Any) -> bool:
    """Check whether a config belongs to a model that gives scores rather than tokens.

    Args:
        config: A transformers config.
    """
    return any(re.search("SequenceClassification|Reward|Critic", name) for name in config.architectures or [])


@contextmanager
def recomputed_activations(model: Any) -> Iterator[None]:
    """Recompute activations in the backward pass (gradient checkpointing) within a ``with`` block.

    Args:
        model: A transformers model.

    Raises:
        ModelError: Its family does not support this.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} cannot recompute activations",
            where="model.gradient_checkpointing",
            hint="Leave it off, and make micro-batches smaller instead (sft.micro_batch_tokens).",
        )
    # transformers 5.20, the last version for Python 3.10, has the older names only
    old = not hasattr(model, "activation_checkpointing_enable")
    enable = model.gradient_checkpointing_enable if old else model.activation_checkpointing_enable
    disable = model.gradient_checkpointing_disable if old else model.activation_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Count the parameters of a model.

    Args:
        model: Any module; partitioned parameters count in full.

    Returns:
        All parameters; those that are trained.
    """
    counts = [(shape_of(p).numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)
