"""Low-rank adaptation (LoRA; Hu et al., arXiv 2106.09685): train a small update beside each frozen weight.

A linear layer ``y = W x + b`` becomes

    y = W x + b + s B A x        W (outputs, inputs)  frozen
                                 A (rank, inputs)     trained, drawn as nn.Linear draws its weight
                                 B (outputs, rank)    trained, zero at first

With ``B = 0`` training starts from the unchanged model. The scale is ``s = alpha / rank``, or ``alpha / sqrt(rank)``
with rsLoRA (arXiv 2312.03732). A rank of 16 trains ``16 * (inputs + outputs)`` numbers in the place of ``inputs *
outputs``. After training ``s B A`` is added to ``W``: the layer is an ordinary one again, as fast as before.

The experts of a mixture are not linear layers but slices of one parameter ``(experts, outputs, inputs)``, which their
module reads by itself. There each expert ``e`` has an ``A_e`` and a ``B_e``, and the module computes with
``W_e + s B_e A_e`` in the place of ``W_e``.

``lora_targets`` selects what is adapted; ``lora_files`` writes and reads adapters in PEFT's format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.models.lora_targets import linear_layers, select_targets
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.recipe.schema import LoraSection


class LoraLayer(nn.Module):
    """Base class of adapted modules: a frozen weight, and an update that can be merged into it.

    Args:
        base: The module that is adapted.
        settings: Rank, alpha, rsLoRA.
        inputs: Columns of ``A``.
        outputs: Rows of ``B``.
        experts: Number of independent updates, each of the given rank.
    """

    def __init__(self, base: nn.Module, settings: LoraSection, inputs: int, outputs: int, experts: int = 1) -> None:
        super().__init__()
        self.base = base
        device = next(base.parameters()).device
        self.lora_a = nn.Parameter(torch.empty(experts * settings.rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, settings.rank * experts, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = settings.alpha / (math.sqrt(settings.rank) if settings.rslora else settings.rank)
        self.merged = False

    @property
    def base_weight(self) -> Tensor:
        """The frozen weight; once merged, with the update."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """Return the update ``s B A`` in float32, in the layout of the base weight."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the base weight; the forward pass then costs nothing extra."""
        if not self.merged:
            self.base_weight.add_(self.delta().to(self.base_weight.dtype))
            self.merged = True


class LoraLinear(LoraLayer):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: The layer to adapt: ``nn.Linear``, or GPT-2's ``Conv1D``, whose weight is stored transposed.
        settings: Rank, alpha, dropout, rsLoRA.
    """

    base: nn.Linear | Conv1D

    def __init__(self, base: nn.Linear | Conv1D, settings: LoraSection) -> None:
        shape = shape_of(base.weight)
        outputs, inputs = shape if isinstance(base, nn.Linear) else reversed(shape)
        super().__init__(base, settings, inputs, outputs)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``W x + b + s B A x``.

        Args:
            x: ``(..., inputs)``; dropout acts on the input of the update alone.

        Returns:
            ``(..., outputs)``.
        """
        y: Tensor = self.base(x)
        if not self.merged:
            update = self.dropout(x).to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T
            y = y + (self.scale * update).to(y.dtype)
        return y

    @property
    def base_weight(self) -> Tensor:
        """The weight of the base layer."""
        return self.base.weight

    @property
    def weight(self) -> Tensor:
        """The weight with its update, for state-space layers, which multiply by the weight themselves."""
        return self.base_weight if self.merged else self.base_weight + self.delta().to(self.base_weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base layer."""
        return self.base.bias

    def delta(self) -> Tensor:
        """Return the update ``s B A`` in float32, in the layout of the base weight."""
        delta = self.scale * (self.lora_b.float() @ self.lora_a.float())
        return delta if isinstance(self.base, nn.Linear) else delta.T


class LoraParameter(LoraLayer):
    """A module with a trainable low-rank update of one parameter: the stacked experts of a mixture.

    Each adapted parameter of a module has a wrapper of its own, and the wrappers are nested, as in PEFT. The shapes are
    PEFT's as well: ``A`` is ``(experts * rank, inputs)``, expert after expert; ``B`` is ``(outputs, rank * experts)``,
    with the experts side by side within each rank. During the forward pass the module finds the updated weight, one
    more copy in memory, under the parameter's name. There is no dropout, because ``A`` is never applied to the input.

    Args:
        base: The module, or the wrapper of another of its parameters.
        name: The parameter: ``(experts, outputs, inputs)``, or ``(experts, inputs, outputs)`` where the module sets
            ``is_transposed``. A matrix counts as a single expert.
        settings: Rank, alpha, rsLoRA.
    """

    def __init__(self, base: nn.Module, name: str, settings: LoraSection) -> None:
        owner = _owner(base)
        *stack, rows, columns = shape_of(getattr(owner, name))
        transposed = bool(stack) and getattr(owner, "is_transposed", False)
        outputs, inputs = (columns, rows) if transposed else (rows, columns)
        super().__init__(base, settings, inputs, outputs, *stack)
        self.name, self.transposed, self.experts = name, transposed, math.prod(stack)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module with the updated weight.

        Args:
            args: Positional arguments of the module.
            kwargs: Keyword arguments of the module.

        Returns:
            The output of the module.
        """
        if self.merged:
            return self.base(*args, **kwargs)
        attributes = vars(_owner(self))  # Python looks here before nn.Module looks among the parameters
        attributes[self.name] = self.base_weight + self.delta().to(self.base_weight.dtype)
        try:
            return self.base(*args, **kwargs)
        finally:
            del attributes[self.name]

    @property
    def base_weight(self) -> Tensor:
        """The adapted parameter."""
        parameter: Tensor = getattr(_owner(self), self.name)
        return parameter

    def delta(self) -> Tensor:
        """Return the updates ``s B_e A_e`` of all experts in float32, in the layout of the parameter."""
        a = self.lora_a.float().view(self.experts, -1, self.lora_a.shape[1])  # (experts, rank, inputs)
        b = self.lora_b.float().view(self.lora_b.shape[0], -1, self.experts)  # (outputs, rank, experts)
        delta = self.scale * torch.einsum("ore,eri->eio" if self.transposed else "ore,eri->eoi", b, a)
        return delta.view(shape_of(self.base_weight))


def inject(model: nn.Module, settings: LoraSection) -> list[str]:
    """Adapt every targeted layer of a model, and freeze everything else.

    Args:
        model: The model; changed in place.
        settings: Targets, rank, alpha, dropout. With dropout the experts of a mixture are not adapted.

    Returns:
        The dotted names of the adapted layers and stacks of experts.

    Raises:
        UserError: A target matches no layer, or there are no targets.
    """
    names = select_targets(model, settings)
    wrap(model, names, settings)
    return names


def wrap(model: nn.Module, names: Sequence[str], settings: LoraSection) -> None:
    """Put LoRA layers around linear layers and parameters, and freeze everything else.

    Args:
        model: The model; changed in place.
        names: Dotted names. Where a module has several of the parameters, the last is the outermost wrapper.
        settings: Rank, alpha, dropout, rsLoRA.
    """
    model.requires_grad_(False)
    linear = dict(linear_layers(model))
    for name in names:
        owner, _, parameter = name.rpartition(".")
        place = name if name in linear else owner
        base = model.get_submodule(place)
        layer = LoraLinear(linear[name], settings) if name in linear else LoraParameter(base, parameter, settings)
        _replace(model, place, layer)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Find the adapted layers of a model.

    Args:
        model: A model, with or without adapters.

    Yields:
        Dotted names and layers; an outer wrapper comes before the one inside it.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def merge(model: nn.Module) -> None:
    """Merge every update into its base weight.

    Args:
        model: A model with adapters; changed in place.
    """
    for _, layer in adapted_layers(model):
        layer.merge()


def remove(model: nn.Module) -> None:
    """Put the base modules back in place; after ``merge`` they keep what was learned.

    Args:
        model: A model with adapters; changed in place.
    """
    for name, layer in reversed(list(adapted_layers(model))):  # inner wrappers first
        _replace(model, name, layer.base)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _owner(module: nn.Module) -> nn.Module:
    """Return the module inside all wrappers: it has the parameters."""
    while isinstance(module, LoraParameter):
        module = module.base
    return module
