"""Reading the files of an adapter in PEFT's format: everything in them is checked before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rlhfcli.core.model_files.model_folder import json_or_empty, refuse_pointers, tensors_in
from rlhfcli.errors import ModelError
from rlhfcli.files import checksums, run_layout
from rlhfcli.files.run_layout import SFT
from rlhfcli.recipe.schema import LoraSection

TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]  # PEFT's names of a language model and a reward model
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
HEAD = "base_model.model.score.weight"  # key of a reward head
_HEAD_MODULES = {"score", "classifier"}  # PEFT names both for every sequence classifier
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")  # the others change the base weights, too
_MAX_ALPHA = 1e5  # common are 8 to 256; with a damaged value scores would overflow
_KINDS = {True: "a reward model: it gives scores, it cannot talk", False: "a language model"}
_TASK_TYPES: dict[bool, TaskType] = {True: "SEQ_CLS", False: "CAUSAL_LM"}
_UNSUPPORTED = (
    "layers_to_transform", "layers_pattern", "exclude_modules", "use_dora", "rank_pattern", "alpha_pattern",
    "layer_replication", "lora_bias", "use_qalora", "trainable_token_indices", "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config", "megatron_config", "velora_config", "monteclora_config", "kasa_config",
)  # fmt: skip
_PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora"}


def is_adapter(name: str | Path) -> bool:
    """Check whether a folder holds an adapter, by the file that transformers looks for first as well.

    Args:
        name: Folder or hub name.
    """
    return (Path(name) / ADAPTER_CONFIG).is_file()


def base_of(adapter: Path) -> str:
    """Return the base model that an adapter names; within a run, this run's fine-tuned model even if the run was moved.

    Args:
        adapter: The folder of the adapter.

    Returns:
        Hub name or folder; empty if the adapter names none.
    """
    named = str(json_or_empty(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    moved = run_layout.final(run_layout.run_of(adapter.resolve().parent), SFT)
    if run_layout.is_final(Path(named), SFT) and not Path(named).is_dir() and moved.is_dir():
        return str(moved)
    return named


def is_reward_adapter(adapter: Path) -> bool:
    """Check whether an adapter belongs to a reward model; without a task type its tensors decide.

    Args:
        adapter: The folder of the adapter.

    Raises:
        ModelError: It belongs to a model of another kind, or cannot be read.
    """
    task = read_config(adapter).get("task_type")
    if task not in (*_TASK_TYPES.values(), None):
        raise ModelError(
            f"this is the adapter of another kind of model: task_type {task}",
            where=str(adapter),
            hint="Reward models have SEQ_CLS in adapter_config.json, language models CAUSAL_LM.",
        )
    return task == _TASK_TYPES[True] or (task is None and HEAD in tensors_in(weights_of(adapter)))


def config_of_kind(adapter: Path, *, reward: bool) -> dict[str, Any]:
    """Read the configuration of an adapter that must belong to a model of one kind.

    Args:
        adapter: The folder of the adapter.
        reward: Whether it must belong to a reward model, else to a language model.

    Returns:
        The content of ``adapter_config.json``.

    Raises:
        ModelError: It is of the other kind, or names no base model other than itself.
    """
    found = is_reward_adapter(adapter)
    if found != reward:
        raise ModelError(
            f"this is the adapter of {_KINDS[found]}",
            where=str(adapter),
            hint=f"Give one whose adapter_config.json says task_type: {_TASK_TYPES[reward]}.",
        )
    base = base_of(adapter)
    if not base or Path(base).resolve() == adapter.resolve():
        what = f"the adapter does not say what its base model is: base_model_name_or_path is {base!r}"
        raise ModelError(what, where=str(adapter / ADAPTER_CONFIG))
    return read_config(adapter)


def read_adapter(folder: Path) -> tuple[dict[str, Any], LoraSection, dict[str, Tensor]]:
    """Read a plain LoRA adapter, which any program may have written.

    Args:
        folder: Has ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        Its configuration, the equivalent recipe section, and its tensors by PEFT's keys.

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
    stacked = bool(config.get("target_parameters"))  # the A of all experts, one below the other
    if not ranks or any(rank % settings.rank if stacked else rank != settings.rank for rank in ranks):
        # checked before anything of this size is allocated
        found = ", ".join(str(rank) for rank in sorted(ranks)) or "none"
        raise ModelError(
            f"the adapter's configuration says rank {settings.rank}, its weights have {found}", where=str(folder)
        )
    return config, settings, tensors


def settings_of(config: dict[str, Any], where: str = ADAPTER_CONFIG) -> LoraSection:
    """Convert an ``adapter_config.json`` into the equivalent recipe section.

    Args:
        config: The content of the file.
        where: Its path, for errors.

    Returns:
        The ``lora`` section of a recipe.

    Raises:
        ModelError: A value is missing or invalid.
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
    if isinstance(alpha, int | float) and alpha > _MAX_ALPHA:
        shown = f"{alpha:g}" if isinstance(alpha, float) else str(alpha)[:20]
        raise ModelError(f"lora_alpha cannot be {shown}: no training makes such an update", where=where)
    try:
        return LoraSection.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = _PEFT_NAMES.get(str(first["loc"][0]), "target_modules")
        raise ModelError(f"{key} cannot be {config.get(key)!r:.60}: {first['msg'].lower()}", where=where) from None


def _number(value: Any) -> Any:
    """Convert an integer, which PEFT may write, to a float; other values are left to the schema to refuse."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``adapter_config.json`` of a folder, and verify the folder's checksums.

    Args:
        folder: The folder of the adapter.

    Returns:
        The content of the file.

    Raises:
        ModelError: There is no such file, it cannot be read, or a file was changed since it was saved.
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
    """List the features of an adapter that go beyond plain LoRA, as this program trains it.

    Args:
        config: The content of ``adapter_config.json``.

    Returns:
        Keys with their values; empty for plain LoRA.
    """
    if config.get("peft_type") != "LORA":
        return [f"peft_type: {config.get('peft_type')}"]
    found = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        found.append(f"init_lora_weights: {config['init_lora_weights']}")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not set(map(str, saved)) <= _HEAD_MODULES:
        found.append(f"modules_to_save: {saved}")
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear":  # a pattern
        found.append("target_modules")
    return found


def weights_of(folder: Path) -> Path:
    """Return the file of an adapter's weights: safetensors only, because a pickle can run code.

    Args:
        folder: The folder of the adapter.

    Raises:
        ModelError: There is no such file.
    """
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        if (folder / "adapter_model.bin").is_file():
            hint = "Ask its maker for safetensors: adapter_model.bin could run code."
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
