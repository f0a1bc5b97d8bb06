"""Adapters of kinds that this program does not train, merged by PEFT, which knows them all, where it is installed.

DoRA, PiSSA, a rank for each layer, trained embeddings or heads, LoHa, IA3, and whatever else can be merged.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhfcli.core.model_files.model_folder import Found
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG
from rlhfcli.errors import ModelError, RlhfError

_TWICE = ".modules_to_save."


def merged(model: Any, folder: Path, why: Sequence[str], shapes: dict[str, Found]) -> Any:
    """Put an adapter on its base model with PEFT, and merge it.

    Args:
        model: The base model; it is changed.
        folder: The adapter; its weights are safetensors.
        why: What of it goes beyond plain LoRA.
        shapes: Its tensors.

    Returns:
        A plain transformers model.

    Raises:
        ModelError: PEFT is not installed, or cannot read or merge it, or its tensors do not fit.
    """
    where = str(folder / ADAPTER_CONFIG)
    uses = ", ".join(why)
    if find_spec("peft") is None:
        hint = f"This one uses {uses}. With PEFT such adapters are read, too: pip install peft"
        raise ModelError("without PEFT only plain LoRA adapters can be read", where=where, hint=hint)
    from peft import PeftModel

    _widen(model, shapes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(folder))
            if not hasattr(adapted.base_model, "merge_and_unload"):
                raise ModelError("an adapter of this kind cannot be merged", where=where, hint=f"It uses {uses}.")
            _check_filled(adapted.load_adapter(str(folder), "default"), shapes, str(folder))
            plain: Any = adapted.merge_and_unload(safe_merge=True)
    except RlhfError:
        raise
    except Exception as error:  # another program's, which may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"PEFT cannot read this adapter: {first}", where=where, hint=f"It uses {uses}.") from error
    _untie(plain)
    return plain.eval()


def _widen(model: Any, shapes: dict[str, Found]) -> None:
    """Give the base model as many tokens as a trained embedding of the adapter has."""
    names = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "lm_head.weight")
    rows = [found.shape[0] for name, found in shapes.items() if name.endswith(names) and len(found.shape) == 2]
    if rows and max(rows) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _check_filled(result: Any, shapes: dict[str, Found], where: str) -> None:
    """Nothing may be missing or left over; of a resized embedding PEFT writes the trained one twice."""
    missing = sorted(result.missing_keys)
    unknown = sorted(key for key in result.unexpected_keys if key.replace(_TWICE, ".", 1) not in shapes.keys() - {key})
    if missing or unknown:
        raise ModelError(
            f"the adapter does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )


def _untie(model: Any) -> None:
    """A head that was trained apart from the embedding must not be tied to it again when the model is loaded."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is not None and getattr(config, "tie_word_embeddings", False) and head.weight is not words.weight:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
