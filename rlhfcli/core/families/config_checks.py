"""Read from a model's config what can be done with it, before anything is loaded, prepared or trained.

Families have different names for the same setting, and some configs contain settings that do not work in training. A
setting that can be fixed is fixed, and noted for the run's header; the others are refused with an error in words.
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
_KEPT_QUANTIZED = {"mxfp4"}  # transformers turns them into ordinary weights by itself
_NOTES = "_rlhf_notes"  # attribute of a config: the changes that were made in it


def context_length(config: Any) -> int | None:
    """Return how many tokens a model can read at once; ``None`` where there is no limit (ALiBi, states).

    Args:
        config: A transformers config.
    """
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in _LENGTHS)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def pad_of(config: Any) -> int:
    """Return the id of the pad token, which models of text and pictures keep in a section; 0 where there is none.

    Args:
        config: A transformers config.
    """
    return int(getattr(config.get_text_config(), "pad_token_id", None) or getattr(config, "pad_token_id", None) or 0)


def set_pad(config: Any, pad_id: int | None) -> None:
    """Write the id of the pad token into a config, and into its text section.

    Args:
        config: A transformers config; changed in place.
        pad_id: The id; ``None`` for no pad token.
    """
    for part in (config, config.get_text_config()):
        part.pad_token_id = pad_id


def check_length(config: Any, longest: int, name: str) -> str:
    """Compare the recipe's ``data.max_length`` with what a model can read.

    Args:
        config: The model's config.
        longest: The recipe's ``data.max_length``.
        name: The model's name, for the error.

    Returns:
        A warning where longer rows can be computed, but the model was not made for them; else empty.

    Raises:
        ModelError: The model has no positions for such rows.
    """
    limit, text = context_length(config), config.get_text_config()
    if limit is None or longest <= limit:
        return ""
    if getattr(text, "rope_parameters", None) or getattr(text, "alibi", False):
        return f"data.max_length is {longest:,}: this model was made for {limit:,} tokens and may do worse beyond them"
    raise ModelError(
        f"data.max_length is {longest:,}, and this model reads at most {limit:,} tokens",
        where=name,
        hint=f"Lower it: --set data.max_length={limit}",
    )


def prepare_config(config: Any, name: str) -> None:
    """Refuse a config whose weights cannot be trained, and switch off losses that are not part of this training.

    Args:
        config: A transformers config; changed in place, and the changes noted (see ``notes_of``).
        name: The model's name, for the error.

    Raises:
        ModelError: The weights are quantised.
    """
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        get = quantized.get if isinstance(quantized, dict) else lambda key, _="": getattr(quantized, key, "")
        method = getattr(get("quant_method", ""), "value", get("quant_method", "")) or "of some kind"
        if method not in _KEPT_QUANTIZED:
            raise ModelError(
                f"these weights are quantised ({method}), and rlhf trains and runs only ordinary ones",
                where=name,
                hint="Use the model that they were made from, without quantization_config in its config.json; "
                "LoRA (sft.lora) saves memory, too.",
            )
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        if getattr(part, "output_router_logits", False):
            part.output_router_logits = False
            add_note(
                config, "the routers' own loss (output_router_logits) is not part of this training and was switched off"
            )


def add_note(config: Any, text: str) -> None:
    """Note a change of a config for the run's header.

    Args:
        config: The model's config.
        text: One line.
    """
    vars(config)[_NOTES] = tuple(dict.fromkeys([*notes_of(config), text]))


def notes_of(config: Any) -> tuple[str, ...]:
    """Return the noted changes of a config, in words.

    Args:
        config: The config of a model that was loaded here.
    """
    found: tuple[str, ...] = vars(config).get(_NOTES, ())
    return found


def remove_notes(config: Any) -> None:
    """Remove the notes from a config, so that they are not saved with it.

    Args:
        config: The model's config.
    """
    vars(config).pop(_NOTES, None)


def check_reward_form(config: Any, name: str) -> None:
    """Refuse a family that has no reward models.

    Args:
        config: The config of a language model or a reward model.
        name: The model's name, for the error.

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
            # without trust_remote_code transformers would ask on the terminal whether to run the model's own code
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:  # "Unrecognized configuration class"
        if "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or ()):
            return  # the model comes with a class of its own
        reason = f"transformers has no {family}ForSequenceClassification"
        raise ModelError(f"no reward model can be made from this family: {reason}", where=name, hint=hint) from None
    except Exception:  # the model has code of its own, or its config is broken: loading it will fail with the reason
        return
    if not isinstance(getattr(model, "score", None), nn.Linear):
        reason = f"{type(model).__name__} has no linear head called score"
        raise ModelError(f"no reward model can be made from this family: {reason}", where=name, hint=hint)


def fix_generation_config(model: Any) -> None:
    """Fix generation settings that transformers refuses to save.

    Args:
        model: A transformers model; early ones have a temperature without ``do_sample``. Changed in place.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None or _valid(settings):
        return
    settings.do_sample = True
    if _valid(settings):
        add_note(model.config, "generation_config.json has a temperature without do_sample: it is saved with it")
        return
    kept = {key: getattr(settings, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = type(settings)(**kept)
    add_note(model.config, "generation_config.json contradicts itself: only its token ids are kept")


def _valid(settings: Any) -> bool:
    try:
        settings.validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True


@torch.no_grad()
def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that are not finite, which would make the first loss NaN.

    Args:
        model: The loaded model.
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
