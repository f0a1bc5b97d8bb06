"""The last layer computes only the tokens that are needed.

Every layer but the last hands the hidden state of a token on to the tokens behind it. Of the last one only those matter
that the head looks at: one token of each answer for a reward model, the target tokens in SFT. Attention still needs the
keys and values of all tokens; but the rest of the layer, from the output of attention to the end of the feed-forward
part, is needed nowhere else. That is three quarters of the layer's weights: 6 % of the matrix products of a model with
twelve layers, 3 % with twenty-four.

Which linear layers may leave tokens out is tried, not looked up: those without whose other rows the needed states stay
the same. It is tried on a copy with random weights: a model's own may be zero, and hide which states depend on which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.families.backbone import backbone_of, probe_ids

_NEEDED = "_rlhf_needed"  # attribute of the model during a forward pass: the needed rows, and the number of all rows
_WORTH = 0.75  # if more of the tokens are needed, picking them costs more than it saves
_TRIAL_TOKENS, _TRIAL_ROWS = 24, (4, 13, 23)  # tokens of the trial, and those that are needed


@torch.no_grad()
def prunable_layers(model: Any) -> tuple[str, ...]:
    """Find the linear layers of the last layer whose result only matters at the needed tokens.

    Args:
        model: A transformers model, with or without a head.

    Returns:
        Their dotted names within that layer; none where the model has no list of layers.
    """
    layer = _last_layer(model)
    if layer is None:
        return ()
    training = model.training
    model.eval()
    try:
        args, kwargs = _call_of(model, layer)
        return _found_by_trial(_randomized(layer), args, kwargs, torch.tensor(_TRIAL_ROWS, device=model.device))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return ()  # a layer that is called in some other way
    finally:
        model.train(training)


def _found_by_trial(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor) -> tuple[str, ...]:
    """Return the linear layers that may be pruned to some rows without a change of the layer's result there."""

    def states() -> Tensor:
        result = layer(*args, **kwargs)
        return (result[0] if isinstance(result, tuple) else result).flatten(0, 1)[rows]  # type: ignore[no-any-return]

    def unchanged(names: Sequence[str]) -> bool:
        modules = [layer.get_submodule(name) for name in names]
        with _pruned(layer, modules), needed_tokens(layer, rows, _TRIAL_TOKENS):
            return bool((states() - expected).abs().max() <= 1e-5 * expected.abs().max())

    expected = states()
    linear = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    names = tuple(name for name in linear if unchanged([name]))
    return names if unchanged(names) else ()


def _last_layer(model: Any) -> nn.Module | None:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((layers[-1] for layers in lists if 0 < len(layers) == count), None)


def _randomized(layer: nn.Module) -> nn.Module:
    """Return a copy whose tokens, keys and values all matter."""
    layer = deepcopy(layer).float()
    for name, parameter in layer.named_parameters():
        own = torch.Generator(parameter.device).manual_seed(0)  # so that the process draws the same numbers afterwards
        if parameter.dim() > 1:
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=own)
        else:
            parameter.normal_(mean=float(name.endswith("weight")), std=0.1, generator=own)
    return layer


def _call_of(model: Any, layer: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with which a model calls one of its layers for a few tokens."""
    calls = []
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    ids = torch.tensor([probe_ids(model, _TRIAL_TOKENS)], device=model.device)
    try:
        backbone_of(model)(ids, use_cache=False)
    finally:
        hook.remove()
    return calls[0]


@contextmanager
def prune_last_layer(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Let linear layers compute only the rows that ``needed_tokens`` names, within a block.

    Args:
        model: A transformers model.
        names: The result of ``prunable_layers``; LoRA may have adapted the layers meanwhile.
    """
    with _pruned(model, modules_of_last_layer(model, names)):
        yield


@contextmanager
def _pruned(owner: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(delattr, module, "forward")  # of the instance: the class's is seen again
            module.forward = _pruned_forward(owner, module.forward)
        yield


def _pruned_forward(owner: nn.Module, whole: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        rows, tokens = getattr(owner, _NEEDED, None) or (None, 0)
        if rows is None or x.shape[:-1].numel() != tokens:  # such as in an expert, which gets some tokens only
            return whole(x)
        computed = whole(x.flatten(0, -2).index_select(0, rows))
        result = computed.new_zeros(tokens, computed.shape[-1]).index_copy(0, rows, computed)
        return result.view(*x.shape[:-1], -1)

    return forward


def modules_of_last_layer(model: Any, names: Sequence[str]) -> list[nn.Module]:
    """Return modules of the last layer by name; where LoRA has adapted one, the adapted module.

    Args:
        model: A transformers model.
        names: The result of ``prunable_layers``.
    """
    layer = _last_layer(model) if names else None
    return [layer.get_submodule(name) for name in names] if layer is not None else []


def same_last_layer(one: Any, other: Any) -> bool:
    """Return whether the last layers of two models are made of the same parts.

    Args:
        one: A transformers model.
        other: Another one.
    """
    return _parts(one) == _parts(other)


def _parts(model: Any) -> dict[str, type]:
    layer = _last_layer(model)
    return {} if layer is None else {name: type(part) for name, part in layer.named_modules()}


def worth_pruning(needed: int, tokens: int) -> bool:
    """Return whether leaving tokens out saves more than it costs.

    Args:
        needed: Number of needed tokens.
        tokens: Number of all tokens.
    """
    return needed <= _WORTH * tokens


@contextmanager
def needed_tokens(model: nn.Module, rows: Tensor | None, tokens: int) -> Iterator[None]:
    """Tell a model during a forward pass which tokens' last hidden states are needed.

    Args:
        model: The transformers model.
        rows: ``(n,)`` different indices into the flattened tokens; ``None``: all.
        tokens: Number of all tokens.
    """
    setattr(model, _NEEDED, (rows, tokens) if rows is not None and worth_pruning(len(rows), tokens) else None)
    try:
        yield
    finally:
        setattr(model, _NEEDED, None)
