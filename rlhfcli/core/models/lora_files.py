"""LoRA adapters as files in PEFT's format: PEFT, vLLM and others load ours, and we load theirs.

    adapter_config.json         rank, alpha, targets, and the name of the base model
    adapter_model.safetensors   base_model.model.{layer}.lora_A.weight   (rank, inputs)
                                base_model.model.{layer}.lora_B.weight   (outputs, rank)
                                base_model.model.score.weight            (1, hidden), of a reward model

Of stacked experts ``{layer}`` is the module that owns the parameter (see ``LoraParameter`` for the shapes). Where a
module has several adapted parameters, the layers of the inner ones are ``{layer}.base_layer``, once per level.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TaskType, read_adapter
from rlhfcli.core.models.lora import LoraParameter, adapted_layers, wrap
from rlhfcli.core.models.lora_targets import expert_stacks, linear_layers, reward_head, select_peft_targets
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import LoraSection

_PREFIX = "base_model.model."  # before every key of PEFT's
_NESTED = re.compile(r"(\.base)+$")  # our name of a wrapper inside others
_FORMER_EXPERTS = {"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"}  # linear layers in transformers 4


def save_adapter(model: nn.Module, folder: Path, settings: LoraSection, base_model: str, task_type: TaskType) -> None:
    """Write the adapter of a model.

    Args:
        model: A model with adapted layers, not merged.
        folder: The folder to write; it is created if needed.
        settings: The settings that the layers were injected with.
        base_model: Hub name or folder of the model that the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``; with the latter the reward head is saved as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = reward_head(model) if task_type == "SEQ_CLS" else None
    tensors = _tensors_by_key(model, head)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS)
    modules, parameters = _peft_targets(model)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0 if parameters else settings.dropout,  # PEFT refuses dropout with target_parameters
        "use_rslora": settings.rslora,
        "target_modules": modules,
        "target_parameters": parameters or None,
        "modules_to_save": [head[0]] if head is not None else None,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layer.base, Conv1D) for _, layer in adapted_layers(model)),
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Adapt a model as an adapter folder describes, and load the adapter's weights.

    Args:
        model: A model without adapters, of the kind that the adapter was trained on; changed in place.
        folder: An adapter, PEFT's or ours.

    Raises:
        ModelError: A file is missing or damaged, or the adapter does not fit the model.
    """
    config, settings, tensors = read_adapter(folder)
    names, _ = select_peft_targets(model, config)
    if not names:
        endings = ", ".join(sorted({name.rsplit(".", 1)[-1] for name, _ in linear_layers(model)}))
        key = "target_modules" if config.get("target_modules") else "target_parameters"
        raise ModelError(
            f"the adapter belongs to another model: this one has none of its {key} {config.get(key)!r:.80}",
            where=str(folder / ADAPTER_CONFIG),
            hint=f"The linear layers of the base model end in: {endings}",
        )
    wrap(model, names, settings)
    head = reward_head(model)
    parameters = _tensors_by_key(model, head if head and head[0] in (config.get("modules_to_save") or []) else None)
    _check_fit(parameters, tensors, str(folder))
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])


def _tensors_by_key(model: nn.Module, head: tuple[str, nn.Linear] | None) -> dict[str, Tensor]:
    """Return the tensors of a model's adapter under the keys of PEFT's file."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        place = name
        if isinstance(layer, LoraParameter):
            place = _NESTED.sub(lambda nested: nested[0].replace("base", "base_layer"), name)
        tensors[f"{_PREFIX}{place}.lora_A.weight"] = layer.lora_a
        tensors[f"{_PREFIX}{place}.lora_B.weight"] = layer.lora_b
    if head is not None:
        tensors[f"{_PREFIX}{head[0]}.weight"] = head[1].weight
    return tensors


def _peft_targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the adapted layers as PEFT's ``target_modules`` and ``target_parameters``.

    In a model with experts PEFT takes some names of linear layers for those of experts in transformers 4, and converts
    them. A layer that is named by its parameter, which means the same, is not converted.
    """
    modules, parameters = [], []
    has_experts = next(expert_stacks(model), None) is not None
    for name, layer in adapted_layers(model):
        if isinstance(layer, LoraParameter):
            parameters.append(f"{_NESTED.sub('', name)}.{layer.name}")
        elif has_experts and name.rsplit(".", 1)[-1] in _FORMER_EXPERTS:
            parameters.append(f"{name}.weight")
        else:
            modules.append(name)
    return modules, parameters


def _check_fit(parameters: dict[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    """Check that a file has exactly the tensors that a model needs, in their shapes."""
    missing, unknown = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or unknown:
        raise ModelError(
            f"the adapter does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )
    for key, parameter in parameters.items():
        if parameter.shape != tensors[key].shape:
            raise ModelError(
                f"{key} has shape {tuple(tensors[key].shape)}, the model needs {tuple(parameter.shape)}", where=where
            )
