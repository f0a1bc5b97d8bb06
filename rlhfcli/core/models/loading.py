"""Loading and saving causal language models and their tokenizers.

Two policies are decided here for the whole project. The pad token is never the end token: a tokenizer without one of
its own gets a reserved token that is already there, else a new one. And a model is loaded in float32, whatever it was
saved in: what is lower in precision is the computation (``torch.autocast``), never the weights that are trained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhfcli.core.families.config_checks import check_finite, fix_generation_config, prepare_config
from rlhfcli.core.families.dropout import set_config_dropout, set_module_dropout
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files.load_errors import check_filled, check_shapes, explained
from rlhfcli.core.model_files.model_folder import check_folder, check_sentencepiece, refuse_pointers
from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.data.templates.template import set_template
from rlhfcli.errors import ModelError
from rlhfcli.files import checksums, model_path
from rlhfcli.recipe import builtin

RESERVED_PADS = ("<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|pad|>", "<unk>")
NEW_PAD = "<|pad|>"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def resolve(name: str) -> str:
    """The folder or hub name that a recipe's ``model.name`` stands for."""
    if name == builtin.TINY:
        from rlhfcli import tiny

        return str(tiny.model_folder())
    return os.path.expanduser(name)


def load_tokenizer(
    name: str, template: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer and see to its pad token and its chat template.

    Args:
        name: Hub name, local folder or ``builtin:tiny``.
        template: As in the recipe (``human_assistant``, ``model``, a .jinja file); ``None`` keeps what it carries.
        trust_remote_code: Run code that comes with the tokenizer.

    Returns:
        A tokenizer whose pad token is not its end token.

    Raises:
        ModelError: It cannot be loaded, was changed since it was saved, or has no end token.
    """
    folder = Path(resolve(name))
    checksums.verify(folder)
    if folder.is_dir():
        refuse_pointers(folder)
        if is_adapter(folder) and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
            return load_tokenizer(base_of(folder), template, trust_remote_code=trust_remote_code)
        check_sentencepiece(folder)
    with explained(name, "tokenizer"):  # without a word about code transformers would ask on the terminal
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # what transformers makes of a missing file
        raise ModelError(
            "the model folder has no tokenizer", where=name, hint="It needs tokenizer.json, or its family's own files."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token", where=name, hint="Set eos_token in its tokenizer_config.json."
        )
    _check_end_token(Path(resolve(name)), tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        reserved = [token for token in RESERVED_PADS if token in vocabulary and token != tokenizer.eos_token]
        tokenizer.add_special_tokens({"pad_token": reserved[0] if reserved else NEW_PAD})
    tokenizer.padding_side = "right"
    if template is not None:
        set_template(tokenizer, template)
    return tokenizer


def load_causal_lm(name: str, *, trust_remote_code: bool = False, dropout: float = 0.0) -> PreTrainedModel:
    """Load a causal language model with float32 weights, ready for use on this process's device.

    Args:
        name: Hub name, local folder or ``builtin:tiny``.
        trust_remote_code: Run code that comes with the model.
        dropout: Takes the place of the model's own (see ``dropout``).

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
    """The ``config.json`` of a model.

    Raises:
        ModelError: There is none, it is not one of a transformers model, or its weights are quantised.
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
    """The config of a model, or of an adapter's base, without a look at the weights beside it.

    Args:
        name: Hub name or folder.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The config; ``None`` where there is none that can be read: loading the model will say why.
    """
    folder = Path(resolve(name))
    source = base_of(folder) if is_adapter(folder) else name
    try:
        with explained(source, "model"):
            return AutoConfig.from_pretrained(resolve(source), trust_remote_code=trust_remote_code)
    except ModelError:
        return None


def language_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The ``config.json`` of a language model.

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
    """Whether a config belongs to a model that gives scores rather than tokens."""
    return any(re.search("SequenceClassification|Reward|Critic", name) for name in config.architectures or [])


@contextmanager
def recomputed_activations(model: Any) -> Iterator[None]:
    """Let a transformers model recompute activations in the backward pass (gradient checkpointing) for a while.

    Raises:
        ModelError: Its family cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} cannot recompute activations",
            where="model.gradient_checkpointing",
            hint="Leave it off, and make micro-batches smaller instead (sft.micro_batch_tokens).",
        )
    # transformers 5.20, the last one for Python 3.10, only knows the older names
    old = not hasattr(model, "activation_checkpointing_enable")
    enable = model.gradient_checkpointing_enable if old else model.activation_checkpointing_enable
    disable = model.gradient_checkpointing_disable if old else model.activation_checkpointing_disable
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters a model has, and how many of them are trained."""
    counts = [(shape_of(p).numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)


def _check_end_token(folder: Path, tokenizer: Any) -> None:
    """Refuse an end token that transformers has made up because ``tokenizer_config.json``, which names it, is missing.

    Raises:
        ModelError: It is not in the tokenizer's own file.
    """
    file = folder / "tokenizer.json"
    if (folder / "tokenizer_config.json").is_file() or not file.is_file():
        return
    if Tokenizer.from_file(str(file)).token_to_id(tokenizer.eos_token) is None:
        raise ModelError(
            f"there is no tokenizer_config.json, and the end token that transformers takes instead "
            f"({tokenizer.eos_token}) is not in tokenizer.json",
            where=str(folder),
            hint="Copy tokenizer_config.json from where the model comes from: it names the end token.",
        )
