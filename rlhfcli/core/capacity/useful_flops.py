"""The useful work of a training step, and the peak of this machine.

*Peak*: the fastest that this machine multiplies matrices of the model's own sizes, measured. *Useful work* of a step:
``2 P`` floating-point operations per token for the forward pass through ``P`` weights of linear layers, ``2 P`` for the
gradient of its inputs and ``2 P`` for that of its weights where they are trained; the language-model head only where a
label is, and what of the last layer is left out where nothing is read not either. A token of a tree counts once;
padding, recomputation and attention not at all. So the share of the peak is what was useful, not what was busy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from rlhfcli.core.models.lora import LoraLinear
from rlhfcli.core.packing.last_layer import modules_of_last_layer, worth_pruning
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.core.tasks.task import Batch


def matmul_peak(sizes: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measure the speed of the fastest linear layer.

    Args:
        sizes: Inputs and outputs of the layers to try.
        tokens: Rows of the input.
        dtype: Precision of the matrices.
        device: Device of the matrices.

    Returns:
        Floating-point operations per second: the best layer's median over several runs.
    """
    best = 0.0
    for inputs, outputs in sizes:
        x, weight = torch.randn(tokens, inputs, device=device), torch.randn(outputs, inputs, device=device)
        x, weight = x.to(dtype), weight.to(dtype)
        seconds = []
        for _ in range(7):
            with timed(device) as took:
                nn.functional.linear(x, weight)
            seconds.append(took[0])
        best = max(best, 2.0 * tokens * inputs * outputs / statistics.median(seconds[2:]))
    return best


def layer_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return inputs and outputs of the model's linear layers, each size once.

    Args:
        model: The model.
    """
    layers = [layer for layer in linear_weights(model)]
    return sorted({(shape_of(layer)[1], shape_of(layer)[0]) for layer in layers})


def useful_flops(model: Any, batch: Batch, name: str, pruned_layers: Sequence[str] = ()) -> float:
    """Count the useful floating-point operations of a training step with a batch; see the top of the file.

    Args:
        model: The transformers model.
        batch: The batch.
        name: ``sft`` or ``reward``, which have different heads.
        pruned_layers: Linear layers of the last layer that compute only the needed tokens.
    """
    head = model.get_output_embeddings() if name == "sft" else None
    tokens = batch.layout.tokens
    few = set()
    if pruned_layers and worth_pruning(len(batch.unique_positions), batch.layout.input_ids.numel()):
        few = {id(weight) for layer in modules_of_last_layer(model, pruned_layers) for weight in linear_weights(layer)}
    total = 0.0
    for weight in linear_weights(model):
        if head is not None and weight is head.weight:
            continue
        rows = len(batch.unique_positions) if id(weight) in few else tokens
        total += (6.0 if weight.requires_grad else 4.0) * shape_of(weight).numel() * rows
    if head is not None:
        total += (6.0 if head.weight.requires_grad else 4.0) * shape_of(head.weight).numel() * len(batch.positions)
    return total


def linear_weights(model: nn.Module) -> list[torch.Tensor]:
    """Return the weights of all linear layers, as ``(outputs, inputs)``; those of GPT-2 are transposed.

    Args:
        model: The model.
    """
    found: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            found.append(cast("torch.Tensor", module.weight))
        elif isinstance(module, LoraLinear):
            found += [parameter for parameter in module.parameters(recurse=False) if len(shape_of(parameter)) == 2]
    return list({id(weight): weight for weight in found}.values())


@contextmanager
def timed(device: torch.device) -> Iterator[list[float]]:
    """Measure the seconds of a block, with the work of the GPU.

    Args:
        device: The device that the block computes on.

    Yields:
        A list, whose only element is the time once the block has ended.
    """
    took = [0.0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    yield took
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took[0] = time.perf_counter() - began
