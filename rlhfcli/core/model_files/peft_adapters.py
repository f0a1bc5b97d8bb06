"""Merging adapters that this program does not train, with PEFT: DoRA, PiSSA, LoHa, IA3, ranks per layer, and others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhfcli.core.model_files.model_folder import TensorInFile
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG
from rlhfcli.errors import ModelError, RlhfError

_SAVED_MODULE = ".modules_to_save."


def merge_with_peft(model: Any, folder: Path, features: Sequence[str], tensors: dict[str, TensorInFile]) -> Any:
    """Merge an adapter into its base model with PEFT.

    Args:
        model: The base model; changed in place.
        folder: The folder of the adapter; its weights are safetensors.
        features: The features of the adapter that go beyond plain LoRA, for errors.
        tensors: The tensors of the adapter, by name.

    Returns:
        A plain transformers model.

    Raises:
        ModelError: PEFT is not installed, it cannot read or merge the adapter, or tensors are missing or left over.
    """
    where = str(folder / ADAPTER_CONFIG)
    uses = ", ".join(features)
    if find_spec("peft") is None:
        hint = f"This one uses {uses}. PEFT reads such adapters: pip install peft"
        raise ModelError("without PEFT only plain LoRA adapters can be read", where=where, hint=hint)
    from peft import PeftModel

    _fit_vocabulary(model, tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(folder))
            if not hasattr(adapted.base_model, "merge_and_unload"):
                raise ModelError("an adapter of this kind cannot be merged", where=where, hint=f"It uses {uses}.")
            _check_filled(adapted.load_adapter(str(folder), "default"), tensors, str(folder))
            plain: Any = adapted.merge_and_unload(safe_merge=True)
    except RlhfError:
        raise
    except Exception as error:  # PEFT may raise arbitrary exceptions
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"PEFT cannot read this adapter: {first}", where=where, hint=f"It uses {uses}.") from error
    _untie(plain)
    return plain.eval()


def _fit_vocabulary(model: Any, tensors: dict[str, TensorInFile]) -> None:
    """Resize the base model's vocabulary to that of a trained embedding in the adapter."""
    names = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "lm_head.weight")
    rows = [entry.shape[0] for name, entry in tensors.items() if name.endswith(names) and len(entry.shape) == 2]
    if rows and max(rows) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _check_filled(result: Any, tensors: dict[str, TensorInFile], where: str) -> None:
    """Check that no tensor is missing or left over; PEFT writes a trained embedding that was resized twice."""
    missing = sorted(result.missing_keys)
    unknown = sorted(
        key for key in result.unexpected_keys if key.replace(_SAVED_MODULE, ".", 1) not in tensors.keys() - {key}
    )
    if missing or unknown:
        raise ModelError(
            f"the adapter does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )


def _untie(model: Any) -> None:
    """Record in the config that the head differs from the embedding, if it was trained apart from it."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is not None and getattr(config, "tie_word_embeddings", False) and head.weight is not embedding.weight:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
