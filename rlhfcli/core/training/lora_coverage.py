"""The share of a model's weights that LoRA adapts, and what it leaves out: a line of the run's header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rlhfcli.core.models.lora import LoraLayer, LoraLinear, LoraParameter, adapted_layers
from rlhfcli.core.models.lora_targets import expert_stacks, is_plain_linear, linear_layers
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.words import percent


def lora_coverage(model: nn.Module) -> str:
    """Describe how much of a model its adapters reach.

    Args:
        model: A transformers model with adapted layers.

    Returns:
        The line of the header; empty for a model without adapters.
    """
    layers = [layer for _, layer in adapted_layers(model)]
    if not layers:
        return ""
    adapted = {id(layer.base_weight): layer.base_weight for layer in layers}
    experts, others = dict(expert_stacks(model)), dict(_other_matrices(model))
    plain = [layer.weight for _, layer in linear_layers(model)]
    matrices = adapted | {id(weight): weight for weight in (*plain, *experts.values(), *others.values())}
    total = _num_elements(matrices.values())
    stacks = sum(isinstance(layer, LoraParameter) for layer in layers)
    counts = {"linear layers": len(layers) - stacks, "stacks of experts": stacks}
    reached = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    line = f"LoRA on {reached}: {percent(_num_elements(adapted.values()) / total)} of the weights in matrices"
    left_out = {"they are not plain linear layers": others}
    if any(isinstance(layer, LoraLinear) and layer.dropout.p for layer in layers):
        left_out["experts need lora.dropout=0"] = experts
    for reason, weights in left_out.items():
        if weights:
            names = ", ".join(sorted({_name_in_layer(name) for name in weights}))
            line += f" · not adapted: {names} ({percent(_num_elements(weights.values()) / total)}; {reason})"
    return line


def _num_elements(matrices: Iterable[Tensor]) -> int:
    return sum(shape_of(matrix).numel() for matrix in matrices)


def _other_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Find matrices that cannot be adapted: of layers that do more, such as routers, and of more dimensions."""
    experts = dict(expert_stacks(model))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not is_plain_linear(module):
            yield name, module.weight
        elif isinstance(module, nn.Linear | LoraLayer | _ConvNd):  # kernels of convolutions have three dimensions, too
            continue
        for key, parameter in module.named_parameters(recurse=False):
            shape = shape_of(parameter)
            router = key == "weight" and len(shape) == 2 and shape[0] == getattr(module, "num_experts", 0)
            if router or (len(shape) == 3 and min(shape) > 1 and f"{name}.{key}" not in experts):
                yield name if router else f"{name}.{key}", parameter


def _name_in_layer(name: str) -> str:
    """Shorten ``model.layers.3.mlp.experts.down_proj`` to ``mlp.experts.down_proj``, the same in every layer."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :] if numbers else parts)
