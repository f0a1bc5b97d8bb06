"""What a model's config says can be done with it, asked before anything is loaded, prepared or trained.

Families call the same thing by different names, and some configs ask for what does not work in training. What can be
put right is put right, and noted for the run's header; what cannot is one error in words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from rlhfcli.core.parallel.zero3 import is_partitioned
from rlhfcli.errors import ModelError

_LENGTHS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "model_max_length",
)  # fmt: skip
_KEPT_QUANTIZED = {"mxfp4"}  # transformers makes ordinary weights of it by itself
_NOTES = "_rlhf_notes"  # attribute of a config: what was changed in it


def limit_of(config: Any) -> int | None:
    """How many tokens a model can read at once; None where its positions have no end (ALiBi, states).

    Args:
        config: A transformers config.
    """
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in _LENGTHS)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def pad_of(config: Any) -> int:
    """The id of the pad token, which models of text and pictures keep in a section; 0 where there is none.

    Args:
        config: A transformers config.
    """
    return int(getattr(config.get_text_config(), "pad_token_id", None) or getattr(config, "pad_token_id", None) or 0)


def set_pad(config: Any, pad_id: int | None) -> None:
    """Write the id of the pad token where it belongs, and where others look for it.

    Args:
        config: A transformers config; changed in place.
        pad_id: The id; ``None`` for no pad token.
    """
    for part in (config, config.get_text_config()):
        part.pad_token_id = pad_id


def check_length(config: Any, longest: int, name: str) -> str:
    """Compare the recipe's ``data.max_length`` with what a model can read.

    Args:
        config: The model's.
        longest: The recipe's.
        name: The model's, for the error.

    Returns:
        What to tell people where longer rows can be computed, but are new to the model; else empty.

    Raises:
        ModelError: The model has no positions for them.
    """
    limit, text = limit_of(config), config.get_text_config()
    if limit is None or longest <= limit:
        return ""
    if getattr(text, "rope_parameters", None) or getattr(text, "alibi", False):
        return (
            f"data.max_length is {longest:,}: this model was made for {limit:,} tokens, what lies beyond is new to it"
        )
    raise ModelError(
        f"data.max_length is {longest:,}, and this model reads at most {limit:,} tokens",
        where=name,
        hint=f"Lower it: --set data.max_length={limit}",
    )


def settle(config: Any, name: str) -> None:
    """Refuse a config that cannot be trained, and switch off what is no part of this training.

    Args:
        config: Changed in place; ``notes_of`` has what was changed.
        name: The model's, for the error.

    Raises:
        ModelError: Its weights are quantised.
    """
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        get = quantized.get if isinstance(quantized, dict) else lambda key, _="": getattr(quantized, key, "")
        method = getattr(get("quant_method", ""), "value", get("quant_method", "")) or "of some kind"
        if method not in _KEPT_QUANTIZED:
            raise ModelError(
                f"these weights are quantised ({method}), and rlhf trains and computes ordinary ones",
                where=name,
                hint="Take the model that they were made of, without quantization_config in its config.json; "
                "LoRA (sft.lora) saves memory, too.",
            )
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        if getattr(part, "output_router_logits", False):
            part.output_router_logits = False
            note(config, "the routers' own loss (output_router_logits) is no part of this training: it is off")


def note(config: Any, text: str) -> None:
    """Keep for the run's header what was changed in a config.

    Args:
        config: Of a model.
        text: One line.
    """
    vars(config)[_NOTES] = tuple(dict.fromkeys([*notes_of(config), text]))


def notes_of(config: Any) -> tuple[str, ...]:
    """What was changed in a config, in words.

    Args:
        config: Of a model that was loaded here.
    """
    found: tuple[str, ...] = vars(config).get(_NOTES, ())
    return found


def forget_notes(config: Any) -> None:
    """Leave nothing of ours in a config that is saved.

    Args:
        config: Of a model.
    """
    vars(config).pop(_NOTES, None)


def check_reward_form(config: Any, name: str) -> None:
    """Refuse a family of which no reward model can be made.

    Args:
        config: Of a language model or a reward model.
        name: The model's, for the error.

    Raises:
        ModelError: transformers has no class for it, or one with another head.
    """
    family = type(config).__name__.removesuffix("Config")
    hint = (
        "rlhf sft works with it. For the reward model take a base of another family (OPT, Llama, Qwen, Mistral, Gemma, "
        "GPT-NeoX, GPT-2, BLOOM …) in a run of its own: rlhf reward --set reward.init_from=base "
        "--set model.name=… --set output_dir=…"
    )
    try:
        with torch.device("meta"):
            # without a word about code transformers would ask on the terminal whether to run the model's own
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:  # "Unrecognized configuration class"
        if "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or ()):
            return  # it comes with a class of its own
        reason = f"transformers has no {family}ForSequenceClassification"
        raise ModelError(f"no reward model can be made of this family: {reason}", where=name, hint=hint) from None
    except Exception:  # its code is its own, or its config is odd: loading it will say so
        return
    if not isinstance(getattr(model, "score", None), nn.Linear):
        reason = f"{type(model).__name__} has no linear head called score"
        raise ModelError(f"no reward model can be made of this family: {reason}", where=name, hint=hint)


def settle_generation(model: Any) -> None:
    """Make a model's generation settings such that they can be saved.

    Args:
        model: A transformers model; early ones name a temperature, and do not say that they sample.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None or _valid(settings):
        return
    settings.do_sample = True
    if _valid(settings):
        note(model.config, "generation_config.json names a temperature without do_sample: it is saved with do_sample")
        return
    kept = {key: getattr(settings, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = type(settings)(**kept)
    note(model.config, "generation_config.json contradicts itself: only its token ids are kept")


def _valid(settings: Any) -> bool:
    try:
        settings.validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True


@torch.no_grad()
def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that are not numbers: training would be told to lower its learning rate.

    Args:
        model: As loaded.
        name: Its folder, for the error.

    Raises:
        ModelError: A weight is NaN or infinite.
    """
    if is_partitioned(model):
        return
    broken = [key for key, weight in model.named_parameters() if not weight.sum().isfinite() and _broken(weight)]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ModelError(
            f"the weights contain NaN or infinite values: {broken[0]}{more}",
            where=name,
            hint="The model itself is broken, before any training: download it or convert it again.",
        )


def _broken(weight: torch.Tensor) -> bool:
    return not bool(weight.isfinite().all())
