"""LoRA on a model: putting the layers of ``lora_layers`` in and out, and their files.

Adapters are written in PEFT's format, so PEFT, vLLM and the others load them, and ours loads theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from rlhfcli.core.models.lora_layers import LoraLayer, LoraLinear, LoraParameter
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.errors import ModelError, UserError
from rlhfcli.recipe.schema import LoraSection

_PREFIX = "base_model.model."  # what PEFT puts before every key
_WITHIN = re.compile(r"(\.base)+$")  # the place of one wrapper in another
_ONCE_EXPERTS = {"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"}


def inject(model: nn.Module, settings: LoraSection) -> list[str]:
    """Put a ``LoraLayer`` around everything that is targeted, and freeze the rest.

    Args:
        model: Changed in place.
        settings: What to adapt and how. With dropout the experts of a mixture are left out.

    Returns:
        The dotted names of the adapted layers and stacks of experts.

    Raises:
        UserError: One of the wanted names fits nothing, or none is wanted.
    """
    experts = [name for name, _ in expert_stacks(model)]
    there = [name for name, _ in linear_layers(model)] + ([] if settings.dropout else experts)
    names = [name for name in there if _is_target(name, settings.targets)]
    wanted = [settings.targets] if isinstance(settings.targets, str) else settings.targets
    missing = [target for target in wanted if not any(_is_target(name, target) for name in there)]
    if missing or not names:
        endings = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in there}))
        without = " Experts can be adapted with lora.dropout=0 only." if experts and settings.dropout else ""
        raise UserError(
            f"no linear layer of the model is called {', '.join(missing)}" if missing else "lora.targets is empty",
            where="lora.targets",
            hint=f"Its linear layers end in: {endings}. all-linear takes all of them.{without}",
        )
    _wrap(model, names, settings)
    return names


def _wrap(model: nn.Module, names: Sequence[str], settings: LoraSection) -> None:
    """Adapt linear layers and parameters by their names; of several parameters of a module, the last is outermost."""
    model.requires_grad_(False)
    linear = dict(linear_layers(model))
    for name in names:
        module, _, parameter = name.rpartition(".")
        place = name if name in linear else module
        base = model.get_submodule(place)
        parent, _, child = place.rpartition(".")
        layer = LoraLinear(linear[name], settings) if name in linear else LoraParameter(base, parameter, settings)
        setattr(model.get_submodule(parent), child, layer)


def sorted_targets(model: nn.Module, config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What of a model an adapter adapts, and which of its targets is another kind of layer there.

    PEFT passes over names that fit nothing at all, as people list those of several families: they are in neither.

    Args:
        model: A plain model.
        config: What ``adapter_config.json`` says.

    Returns:
        Names of linear layers and parameters; targets.
    """
    targets = config.get("target_modules") or []
    wanted = [targets] if isinstance(targets, str) else list(targets)
    linear = [name for name, _ in linear_layers(model)]
    others = [name for name, _ in model.named_modules() if name not in linear]
    fit = {target for target in wanted if any(_is_target(name, target) for name in linear)}
    names = [name for name in linear if any(_is_target(name, target) for target in fit)]
    for name, _ in model.named_parameters():
        if _is_target(name, config.get("target_parameters") or []):
            layer = name.removesuffix(".weight")  # a linear layer may be named by its only matrix
            names.append(layer if layer in linear else name)
    return names, [t for t in wanted if t not in fit and any(_is_target(name, t) for name in others)]


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """All adapted layers of a model with their dotted names; a wrapper around another one before that one."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def merge(model: nn.Module) -> None:
    """Merge every adapter into its base weight."""
    for _, layer in adapted_layers(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter out of its base weight."""
    for _, layer in adapted_layers(model):
        layer.unmerge()


def remove(model: nn.Module) -> None:
    """Put the base layers back in place, as they are now: merged ones keep what was learnt."""
    for name, layer in reversed(list(adapted_layers(model))):  # what is inside another one first
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)


def save_adapter(model: nn.Module, folder: Path, settings: LoraSection, base_model: str, task_type: str) -> None:
    """Write the adapter as PEFT does: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Args:
        model: A model with injected layers.
        folder: Where to write; made if need be.
        settings: What ``inject`` was called with.
        base_model: Hub name or folder of the model that the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``; with the latter the head is saved as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = _head(model) if task_type == "SEQ_CLS" else None
    tensors = _tensors(model, head)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS)
    modules, parameters = _targets(model)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0 if parameters else settings.dropout,  # PEFT refuses both
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
    """Inject the layers that an adapter folder describes, PEFT's or ours, and load their weights.

    Args:
        model: A plain model of the kind the adapter was trained on; changed in place.
        folder: Has ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ModelError: A file is missing or damaged, or the adapter does not fit the model.
    """
    config, settings, tensors = read_adapter(folder)
    names, _ = sorted_targets(model, config)
    if not names:
        there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name, _ in linear_layers(model)}))
        key = "target_modules" if config.get("target_modules") else "target_parameters"
        raise ModelError(
            f"the adapter belongs to another model: this one has none of its {key} {config.get(key)!r:.80}",
            where=str(folder / ADAPTER_CONFIG),
            hint=f"The linear layers of the base model end in: {there}",
        )
    _wrap(model, names, settings)
    head = _head(model)
    wanted = _tensors(model, head if head and head[0] in (config.get("modules_to_save") or []) else None)
    _check_fit(wanted, tensors, str(folder))
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


def _tensors(model: nn.Module, head: tuple[str, nn.Linear] | None) -> dict[str, Tensor]:
    """What an adapter's file holds, by PEFT's names."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        place = name
        if isinstance(layer, LoraParameter):
            place = _WITHIN.sub(lambda found: found[0].replace("base", "base_layer"), name)
        tensors[f"{_PREFIX}{place}.lora_A.weight"] = layer.lora_a
        tensors[f"{_PREFIX}{place}.lora_B.weight"] = layer.lora_b
    if head is not None:
        tensors[f"{_PREFIX}{head[0]}.weight"] = head[1].weight
    return tensors


def _targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """What is adapted, as PEFT's ``target_modules`` and ``target_parameters``.

    In a model with experts PEFT takes linear layers of some names for those experts, as they were called in
    transformers 4. Named by their parameter, which comes to the same, they are left to what they are.
    """
    modules, parameters = [], []
    has_experts = next(expert_stacks(model), None) is not None
    for name, layer in adapted_layers(model):
        if isinstance(layer, LoraParameter):
            parameters.append(f"{_WITHIN.sub('', name)}.{layer.name}")
        elif has_experts and name.rsplit(".", 1)[-1] in _ONCE_EXPERTS:
            parameters.append(f"{name}.weight")
        else:
            modules.append(name)
    return modules, parameters


def _check_fit(wanted: dict[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        raise ModelError(
            f"the adapter does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )
    for key, parameter in wanted.items():
        if parameter.shape != tensors[key].shape:
            raise ModelError(
                f"{key} has shape {tuple(tensors[key].shape)}, the model needs {tuple(parameter.shape)}", where=where
            )


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The linear layers of the backbone: neither the language-model head nor the reward head is adapted."""
    head = _head(model)
    heads = [head[1]] if head else []
    if isinstance(model, PreTrainedModel):
        heads.append(model.get_output_embeddings())
    for name, module in model.named_modules():
        if is_plain(module) and not any(module is head for head in heads):
            yield name, module


def expert_stacks(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters that hold a matrix for each expert: ``(experts, …, …)``."""
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if len(shape_of(parameter)) == 3 and shape_of(parameter)[0] == getattr(module, "num_experts", 0):
                yield f"{name}.{key}", parameter


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module does what a linear layer does, and no more: a router may be one, and choose experts besides."""
    return type(module).forward in (nn.Linear.forward, Conv1D.forward)


def _head(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """The reward head of a sequence-classification model: transformers calls it ``score`` in every decoder family."""
    score = getattr(model, "score", None)
    return ("score", score) if isinstance(score, nn.Linear) else None


def _is_target(name: str, targets: str | list[str]) -> bool:
    if targets == "all-linear":
        return True
    wanted = [targets] if isinstance(targets, str) else targets
    return any(name == target or name.endswith(f".{target}") for target in wanted)
