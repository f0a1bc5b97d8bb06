"""Low-rank adaptation (LoRA, Hu et al., arXiv 2106.09685): train a small update beside each frozen weight.

A linear layer ``y = W x + b`` becomes ``y = W x + b + s * B A x``. ``W`` and ``b`` stay as they are; only ``A``
(rank x inputs) and ``B`` (outputs x rank) are trained. ``B`` starts at zero, so training starts from the unchanged
model. The scale is ``s = alpha / rank`` (or ``alpha / sqrt(rank)``: rsLoRA, arXiv 2312.03732). When training is over,
``s * B A`` is added to ``W`` and the layer is an ordinary one again.

The experts of a mixture are no linear layers but slices of one parameter, which their module reads by itself. There
expert ``e`` has ``A_e`` and ``B_e``, and the module computes with ``W_e + s * B_e A_e`` in the place of ``W_e``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.recipe.schema import LoraSection


class LoraLayer(nn.Module):
    """What all adapted layers have in common: a frozen weight, and an update that can be merged into it.

    Args:
        base: The module that is adapted.
        settings: Rank, alpha, rsLoRA.
        inputs: Columns of ``A``.
        outputs: Rows of ``B``.
        experts: How many updates there are, side by side.
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
    def frozen(self) -> Tensor:
        """The weight as it was loaded; once merged, with the update."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """The update in the layout of the frozen weight, float32."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the frozen weight; the forward pass then costs nothing extra."""
        if not self.merged:
            self.frozen.add_(self.delta().to(self.frozen.dtype))
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of the frozen weight again (equal within rounding)."""
        if self.merged:
            self.frozen.sub_(self.delta().to(self.frozen.dtype))
            self.merged = False


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
        """``(..., inputs)`` to ``(..., outputs)``."""
        y: Tensor = self.base(x)
        if not self.merged:
            update = self.dropout(x).to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T
            y = y + (self.scale * update).to(y.dtype)
        return y

    @property
    def frozen(self) -> Tensor:
        """The base layer's weight."""
        return self.base.weight

    @property
    def weight(self) -> Tensor:
        """The weight with its update: state-space layers multiply by it themselves."""
        return self.frozen if self.merged else self.frozen + self.delta().to(self.frozen.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base layer's."""
        return self.base.bias

    def delta(self) -> Tensor:
        """The update ``s * B A`` in the layout of the base weight, float32."""
        delta = self.scale * (self.lora_b.float() @ self.lora_a.float())
        return delta if isinstance(self.base, nn.Linear) else delta.T


class LoraParameter(LoraLayer):
    """A frozen module, one parameter of which has a trainable low-rank update: the experts of a mixture, in one stack.

    Of several parameters each has a wrapper of its own, around the one before: PEFT does the same. ``A`` and ``B`` have
    PEFT's shapes, too: ``A`` is ``(experts * rank, inputs)``, expert after expert; ``B`` is ``(outputs, rank *
    experts)`` with the experts side by side in every rank. While the module computes, it finds the updated weight,
    which is one more copy, under the parameter's name. There is no dropout: the input never meets ``A`` alone.

    Args:
        base: The module, or the wrapper of another of its parameters.
        name: The parameter: ``(experts, outputs, inputs)``; with the last two the other way round where the module says
            ``is_transposed``; one of two dimensions is a single expert.
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
        """What the module gives with the updated weight."""
        if self.merged:
            return self.base(*args, **kwargs)
        seen = vars(_owner(self))  # what is here is found before the parameter of the same name
        seen[self.name] = self.frozen + self.delta().to(self.frozen.dtype)
        try:
            return self.base(*args, **kwargs)
        finally:
            del seen[self.name]

    @property
    def frozen(self) -> Tensor:
        """The parameter."""
        parameter: Tensor = getattr(_owner(self), self.name)
        return parameter

    def delta(self) -> Tensor:
        """The update ``s * B_e A_e`` of each expert in the layout of the parameter, float32."""
        a = self.lora_a.float().view(self.experts, -1, self.lora_a.shape[1])  # (experts, rank, inputs)
        b = self.lora_b.float().view(self.lora_b.shape[0], -1, self.experts)  # (outputs, rank, experts)
        delta = self.scale * torch.einsum("ore,eri->eio" if self.transposed else "ore,eri->eoi", b, a)
        return delta.view(shape_of(self.frozen))


def _owner(module: nn.Module) -> nn.Module:
    """The module inside all wrappers: it has the parameters."""
    while isinstance(module, LoraParameter):
        module = module.base
    return module
