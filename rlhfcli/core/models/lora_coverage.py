"""How much of a model LoRA reaches, and what it leaves out: for the run's header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rlhfcli.core.models.lora import adapted_layers, expert_stacks, is_plain, linear_layers
from rlhfcli.core.models.lora_layers import LoraLayer, LoraLinear, LoraParameter
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.words import percent


def coverage(model: nn.Module) -> str:
    """How much of a model its adapters reach, for the run's header; empty without adapters.

    Args:
        model: A transformers model with injected layers.
    """
    layers = [layer for _, layer in adapted_layers(model)]
    if not layers:
        return ""
    adapted = {id(layer.frozen): layer.frozen for layer in layers}
    experts, others = dict(expert_stacks(model)), dict(_other_matrices(model))
    plain = [layer.weight for _, layer in linear_layers(model)]
    matrices = adapted | {id(weight): weight for weight in (*plain, *experts.values(), *others.values())}
    total = _size(matrices.values())
    stacks = sum(isinstance(layer, LoraParameter) for layer in layers)
    counts = {"linear layers": len(layers) - stacks, "stacks of experts": stacks}
    what = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    said = f"LoRA on {what}: {percent(_size(adapted.values()) / total)} of the weights in matrices"
    reasons = {"they are no plain linear layers": others}
    if any(isinstance(layer, LoraLinear) and layer.dropout.p for layer in layers):
        reasons["lora.dropout has to be 0 for experts"] = experts
    for why, left in reasons.items():
        if left:
            names = ", ".join(sorted({_without_numbers(name) for name in left}))
            said += f" · not adapted: {names} ({percent(_size(left.values()) / total)}; {why})"
    return said


def _size(matrices: Iterable[Tensor]) -> int:
    return sum(shape_of(matrix).numel() for matrix in matrices)


def _other_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Matrices that no adapter is put around: of layers with more to do, as routers have, and of more dimensions."""
    experts = dict(expert_stacks(model))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not is_plain(module):
            yield name, module.weight
        elif isinstance(module, nn.Linear | LoraLayer | _ConvNd):  # kernels have three dimensions, too
            continue
        for key, parameter in module.named_parameters(recurse=False):
            shape = shape_of(parameter)
            router = key == "weight" and len(shape) == 2 and shape[0] == getattr(module, "num_experts", 0)
            if router or (len(shape) == 3 and min(shape) > 1 and f"{name}.{key}" not in experts):
                yield name if router else f"{name}.{key}", parameter


def _without_numbers(name: str) -> str:
    """``model.layers.3.mlp.experts.down_proj`` to ``mlp.experts.down_proj``: the same in every layer."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts)
