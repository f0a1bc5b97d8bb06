"""Reading the files of a LoRA adapter in PEFT's format: nothing in them is believed before it is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rlhfcli.core.model_files.model_folder import refuse_pointers
from rlhfcli.errors import ModelError
from rlhfcli.files import checksums, run_layout
from rlhfcli.files.run_layout import SFT
from rlhfcli.recipe.schema import LoraSection

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
REWARDS = "rlhf.json"  # of an adapter: what a reward model's config says beside its shapes
_HEADS = {"score", "classifier"}  # PEFT names both for every sequence classifier
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # the others change the base weights, too
_HIGHEST_ALPHA = 1e5  # usual are 8 to 256; scores of a damaged one would overflow
_UNSUPPORTED = (
    "layers_to_transform", "layers_pattern", "exclude_modules", "use_dora", "rank_pattern", "alpha_pattern",
    "layer_replication", "lora_bias", "use_qalora", "trainable_token_indices", "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config", "megatron_config", "velora_config", "monteclora_config", "kasa_config",
)  # fmt: skip
_PEFTS_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora"}


def is_adapter(name: str | Path) -> bool:
    """Whether a folder holds an adapter; transformers, too, looks for this file first."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def base_of(adapter: Path) -> str:
    """The base model that an adapter names; in a run, the fine-tuned model of this run even if it was moved."""
    named = str(read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    moved = run_layout.final(run_layout.run_of(adapter.resolve().parent), SFT)
    if run_layout.is_final(Path(named), SFT) and not Path(named).is_dir() and moved.is_dir():
        return str(moved)
    return named


def read_json(file: Path) -> dict[str, Any]:
    """What a file says; empty where it is not there, or cannot be read."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def read_adapter(folder: Path) -> tuple[dict[str, Any], LoraSection, dict[str, Tensor]]:
    """Read an adapter that somebody else may have made.

    Args:
        folder: Has ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        Its configuration, the recipe section that says the same, and its tensors by PEFT's names.

    Raises:
        ModelError: A file is missing or damaged, or the adapter is of a kind that is not supported.
    """
    config = read_config(folder)
    beyond = beyond_plain(config)
    if beyond:
        uses = f"This one uses {', '.join(beyond)}"
        raise ModelError("only plain LoRA adapters are supported", where=str(folder / ADAPTER_CONFIG), hint=uses)
    settings = settings_of(config, str(folder / ADAPTER_CONFIG))
    tensors = _read_tensors(folder)
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("lora_A.weight") and tensor.dim() == 2}
    stacks = bool(config.get("target_parameters"))  # A of several experts, one below the other
    if not ranks or any(rank % settings.rank if stacks else rank != settings.rank for rank in ranks):
        # before anything of this size is made
        found = ", ".join(str(rank) for rank in sorted(ranks)) or "none"
        raise ModelError(
            f"the adapter's configuration says rank {settings.rank}, its weights have {found}", where=str(folder)
        )
    return config, settings, tensors


def settings_of(config: dict[str, Any], where: str = ADAPTER_CONFIG) -> LoraSection:
    """The recipe section that corresponds to an ``adapter_config.json``.

    Args:
        config: What the file says.
        where: Its path, for the error.

    Raises:
        ModelError: It lacks something, or says what cannot be.
    """
    targets, parameters = config.get("target_modules"), config.get("target_parameters") or []
    if not isinstance(parameters, list) or not all(isinstance(name, str) for name in parameters):
        raise ModelError(f"target_parameters cannot be {parameters!r:.60}: names are needed", where=where)
    values = {
        "rank": config.get("r"),
        "alpha": _number(config.get("lora_alpha")),
        "dropout": _number(config.get("lora_dropout", 0.0)),
        "rslora": config.get("use_rslora") or False,
        "targets": [] if parameters and targets is None else targets,
    }
    alpha = values["alpha"]
    if isinstance(alpha, int | float) and alpha > _HIGHEST_ALPHA:
        shown = f"{alpha:g}" if isinstance(alpha, float) else str(alpha)[:20]
        raise ModelError(f"lora_alpha cannot be {shown}: no training makes such an update", where=where)
    try:
        return LoraSection.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = _PEFTS_NAMES.get(str(first["loc"][0]), "target_modules")
        raise ModelError(f"{key} cannot be {config.get(key)!r:.60}: {first['msg'].lower()}", where=where) from None


def _number(value: Any) -> Any:
    """PEFT writes whole numbers where we have any; what is no number stays what it is, and is refused."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value


def read_config(folder: Path) -> dict[str, Any]:
    """What the ``adapter_config.json`` of a folder says, whose files are what was saved.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    if folder.is_dir():
        refuse_pointers(folder)
    checksums.verify(folder)
    where = str(folder / ADAPTER_CONFIG)
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("not an adapter folder: it has no adapter_config.json", where=str(folder)) from None
    except OSError as error:
        raise ModelError(f"adapter_config.json cannot be read: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"adapter_config.json is not JSON: {error}", where=where) from None
    if not isinstance(config, dict):
        raise ModelError("adapter_config.json holds no keys", where=where)
    return config


def beyond_plain(config: dict[str, Any]) -> list[str]:
    """What an adapter uses that this program's own LoRA does not have; empty for plain LoRA.

    Args:
        config: What its ``adapter_config.json`` says.
    """
    if config.get("peft_type") != "LORA":
        return [f"peft_type: {config.get('peft_type')}"]
    found = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        found.append(f"init_lora_weights: {config['init_lora_weights']}")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not set(map(str, saved)) <= _HEADS:
        found.append(f"modules_to_save: {saved}")
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear":  # a pattern
        found.append("target_modules")
    return found


def weights_of(folder: Path) -> Path:
    """The file of an adapter's weights: safetensors alone, a pickle could run anything.

    Raises:
        ModelError: There is none.
    """
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        if (folder / "adapter_model.bin").is_file():
            hint = "Let the one who made it save it as safetensors: adapter_model.bin could run code."
            raise ModelError("the adapter's weights are a pickle file, which is not read", where=str(folder), hint=hint)
        raise ModelError("the adapter folder has no weights", where=str(file))
    return file


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    file = weights_of(folder)
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"the adapter's weights cannot be read: {error}", where=str(file)) from None
    broken = [key for key, tensor in tensors.items() if not tensor.is_floating_point() or not tensor.isfinite().all()]
    if broken:
        raise ModelError(f"{broken[0]} contains NaN or infinite values", where=str(file), hint="Is the file damaged?")
    return tensors
