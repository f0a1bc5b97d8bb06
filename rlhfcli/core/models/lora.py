"""Low-rank adaptation (LoRA, Hu et al., arXiv 2106.09685): train a small update beside each frozen weight.

A linear layer ``y = W x + b`` becomes ``y = W x + b + s * B A x``. ``W`` and ``b`` stay as they are; only ``A``
(rank x inputs) and ``B`` (outputs x rank) are trained. ``B`` starts at zero, so training starts from the unchanged
model. The scale is ``s = alpha / rank`` (or ``alpha / sqrt(rank)``: rsLoRA, arXiv 2312.03732). When training is over,
``s * B A`` is added to ``W`` and the layer is an ordinary one again.

Adapters are written in PEFT's format, so PEFT, vLLM and the others load them, and ours loads theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.errors import ModelError, UserError
from rlhfcli.recipe.schema import Lora
from rlhfcli.words import percent

_PREFIX = "base_model.model."  # what PEFT puts before every key


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: The layer to adapt: ``nn.Linear``, or GPT-2's ``Conv1D``, whose weight is stored transposed.
        settings: Rank, alpha, dropout, rsLoRA.
    """

    def __init__(self, base: nn.Linear | Conv1D, settings: Lora) -> None:
        super().__init__()
        shape = shape_of(base.weight)
        outputs, inputs = shape if isinstance(base, nn.Linear) else reversed(shape)
        device = base.weight.device
        self.base = base
        self.lora_a = nn.Parameter(torch.empty(settings.rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, settings.rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.dropout = nn.Dropout(settings.dropout)
        self.scale = settings.alpha / (math.sqrt(settings.rank) if settings.rslora else settings.rank)
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``."""
        y: Tensor = self.base(x)
        if not self.merged:
            update = self.dropout(x).to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T
            y = y + (self.scale * update).to(y.dtype)
        return y

    @property
    def weight(self) -> Tensor:
        """The weight with its update: state-space layers multiply by it themselves."""
        weight: Tensor = self.base.weight
        return weight if self.merged else weight + self.delta().to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base layer's."""
        return self.base.bias

    def delta(self) -> Tensor:
        """The update ``s * B A`` in the layout of the base weight, float32."""
        delta = self.scale * (self.lora_b.float() @ self.lora_a.float())
        return delta if isinstance(self.base, nn.Linear) else delta.T

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the base weight; the forward pass then costs nothing extra."""
        if not self.merged:
            self.base.weight += self.delta().to(self.base.weight.dtype)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of the base weight again (equal within rounding)."""
        if self.merged:
            self.base.weight -= self.delta().to(self.base.weight.dtype)
            self.merged = False


def inject(model: nn.Module, settings: Lora) -> list[str]:
    """Put a ``LoraLinear`` around every targeted layer, and freeze everything else.

    Args:
        model: Changed in place.
        settings: What to adapt and how.

    Returns:
        The dotted names of the adapted layers.

    Raises:
        UserError: One of the wanted names fits no layer, or none is wanted.
    """
    there = [name for name, _ in _linear_layers(model)]
    names = [name for name in there if _is_target(name, settings.targets)]
    wanted = [settings.targets] if isinstance(settings.targets, str) else settings.targets
    missing = [target for target in wanted if not any(_is_target(name, target) for name in there)]
    if missing or not names:
        endings = sorted({name.rsplit(".", 1)[-1] for name in there})
        raise UserError(
            f"no linear layer of the model is called {', '.join(missing)}" if missing else "lora.targets is empty",
            where="lora.targets",
            hint=f"Its linear layers end in: {', '.join(endings)}. all-linear takes all of them.",
        )
    model.requires_grad_(False)
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, LoraLinear(getattr(owner, child), settings))
    return names


def sorted_targets(model: nn.Module, targets: str | list[str]) -> tuple[list[str], list[str]]:
    """What of an adapter's targets ``inject`` can adapt in a model, and what is another kind of layer there.

    PEFT passes over names that fit nothing at all, as people list those of several families: they are in neither.

    Args:
        model: A plain model.
        targets: Names, or ends of names.
    """
    wanted = [targets] if isinstance(targets, str) else targets
    linear = [name for name, _ in _linear_layers(model)]
    others = [name for name, _ in model.named_modules() if name not in linear]
    fit = [target for target in wanted if any(_is_target(name, target) for name in linear)]
    return fit, [t for t in wanted if t not in fit and any(_is_target(name, t) for name in others)]


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """All adapted layers of a model with their dotted names."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def coverage(model: nn.Module) -> str:
    """How much of a model its adapters reach, for the run's header; empty without adapters.

    Args:
        model: A transformers model with injected layers.
    """
    adapted = {id(layer.base): shape_of(layer.base.weight).numel() for _, layer in adapted_layers(model)}
    if not adapted:
        return ""
    plain = {id(layer): shape_of(layer.weight).numel() for _, layer in _linear_layers(model)}
    others = {name: shape_of(weight).numel() for name, weight in _other_matrices(model)}
    reached, total = sum(adapted.values()), sum((plain | adapted).values()) + sum(others.values())
    said = f"LoRA on {len(adapted):,} linear layers: {percent(reached / total)} of the weights in matrices"
    if others:
        names = ", ".join(sorted({_without_numbers(name) for name in others}))
        said += f" · not adapted: {names} ({percent(sum(others.values()) / total)}; they are no plain linear layers)"
    return said


def _other_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Matrices that no adapter can be put around: of many experts in one parameter, or of layers with more to do."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not _is_plain(module):
            yield name, module.weight
        if isinstance(module, _ConvNd):  # its kernels have three dimensions, too
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if len(shape_of(parameter)) == 3 and min(shape_of(parameter)) > 1:
                yield f"{name}.{key}", parameter


def _without_numbers(name: str) -> str:
    """``model.layers.3.mlp.experts.down_proj`` to ``mlp.experts.down_proj``: the same in every layer."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts)


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
    for name, layer in list(adapted_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)


def save_adapter(model: nn.Module, folder: Path, settings: Lora, base_model: str, task_type: str) -> None:
    """Write the adapter as PEFT does: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Args:
        model: A model with injected layers.
        folder: Where to write; made if need be.
        settings: What ``inject`` was called with.
        base_model: Hub name or folder of the model that the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``; with the latter the head is saved as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_a.detach()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_b.detach()
    head = _head(model) if task_type == "SEQ_CLS" else None
    if head is not None:
        tensors[f"{_PREFIX}{head[0]}.weight"] = head[1].weight.detach()
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": [name for name, _ in adapted_layers(model)],
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
    fit, _ = sorted_targets(model, settings.targets)
    if not fit:
        there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_layers(model)}))
        raise ModelError(
            f"the adapter belongs to another model: this one has none of its target_modules {settings.targets!r:.80}",
            where=str(folder / ADAPTER_CONFIG),
            hint=f"The linear layers of the base model end in: {there}",
        )
    inject(model, settings.model_copy(update={"targets": fit}))
    wanted: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model):
        wanted[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_a
        wanted[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_b
    head = _head(model)
    if head is not None and head[0] in (config.get("modules_to_save") or []):
        wanted[f"{_PREFIX}{head[0]}.weight"] = head[1].weight
    _check_fit(wanted, tensors, str(folder))
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


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


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The linear layers of the backbone: neither the language-model head nor the reward head is adapted."""
    head = _head(model)
    heads = [head[1]] if head else []
    if isinstance(model, PreTrainedModel):
        heads.append(model.get_output_embeddings())
    for name, module in model.named_modules():
        if _is_plain(module) and not any(module is head for head in heads):
            yield name, module


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
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
