"""The last layer computes only the tokens that somebody reads.

Every layer but the last hands the hidden state of a token on to the tokens behind it. Of the last one only those matter
that the head looks at: one token of each answer for a reward model, the learnt ones in SFT. Attention still needs the
keys and values of all tokens; but the rest of the layer, from the output of attention to the end of the feed-forward
part, is needed nowhere else. That is three quarters of the layer's weights: 6 % of the matrix products of a model with
twelve layers, 3 % with twenty-four.

Which linear layers may leave tokens out is tried, not looked up: those without whose other rows the states that are
read stay the same. It is tried on a copy with random weights: a model's own may be zero, and hide what depends on what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhfcli.core.packing.backbone import backbone_of, probe_ids

_READ = "_rlhf_read"  # attribute of the model: the rows that are read in the forward pass that runs, and of how many
_WORTH = 0.75  # if more of the tokens are read, picking them costs more than it saves
_TRIED, _ROWS = 24, (4, 13, 23)  # tokens of the trial, and those that are read


@torch.no_grad()
def prunable_layers(model: Any) -> tuple[str, ...]:
    """The linear layers of the last layer whose result only matters for the tokens that are read.

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
        layer, rows = _random(layer), torch.tensor(_ROWS, device=model.device)

        def states() -> Tensor:
            result = layer(*args, **kwargs)
            return (result[0] if isinstance(result, tuple) else result).flatten(0, 1)[rows]  # type: ignore[no-any-return]

        def same(names: Sequence[str]) -> bool:
            with _pruned(layer, [layer.get_submodule(name) for name in names]), reading(layer, rows, _TRIED):
                return bool((states() - whole).abs().max() <= 1e-5 * whole.abs().max())

        whole = states()
        linear = [name for name, each in layer.named_modules() if isinstance(each, nn.Linear | Conv1D)]
        names = tuple(name for name in linear if same([name]))
        return names if same(names) else ()
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return ()  # a layer that is called in some other way
    finally:
        model.train(training)


def _last_layer(model: Any) -> nn.Module | None:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    return next((layers[-1] for layers in lists if 0 < len(layers) == count), None)


def _random(layer: nn.Module) -> nn.Module:
    """A copy whose tokens, keys and values all matter."""
    layer = deepcopy(layer).float()
    for name, parameter in layer.named_parameters():
        own = torch.Generator(parameter.device).manual_seed(0)  # so that nobody else's numbers change
        if parameter.dim() > 1:
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=own)
        else:
            parameter.normal_(mean=float(name.endswith("weight")), std=0.1, generator=own)
    return layer


def _call_of(model: Any, layer: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """With what a layer is called for a few tokens."""
    calls = []
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    ids = torch.tensor([probe_ids(model, _TRIED)], device=model.device)
    try:
        backbone_of(model)(ids, use_cache=False)
    finally:
        hook.remove()
    return calls[0]


@contextmanager
def narrowed(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Let linear layers compute, for a while, only the rows that ``reading`` names.

    Args:
        model: The model.
        names: What ``prunable_layers`` gave; adapted by LoRA meanwhile or not.
    """
    with _pruned(model, prunable_modules(model, names)):
        yield


@contextmanager
def _pruned(owner: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(delattr, module, "forward")  # of the instance: the class's is seen again
            module.forward = _prune_rows(owner, module.forward)
        yield


def prunable_modules(model: Any, names: Sequence[str]) -> list[nn.Module]:
    """The modules that ``prunable_layers`` has named; those that LoRA has put in their place, where it did."""
    layer = _last_layer(model) if names else None
    return [layer.get_submodule(name) for name in names] if layer is not None else []


def same_last_layer(one: Any, other: Any) -> bool:
    """Whether the last layers of two models are made of the same parts.

    Args:
        one: A transformers model.
        other: Another one.
    """
    return _parts(one) == _parts(other)


def _parts(model: Any) -> dict[str, type]:
    layer = _last_layer(model)
    return {} if layer is None else {name: type(part) for name, part in layer.named_modules()}


def worth_pruning(read: int, tokens: int) -> bool:
    """Whether to leave out what is not read of so many tokens."""
    return read <= _WORTH * tokens


def _prune_rows(owner: nn.Module, whole: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        rows, tokens = getattr(owner, _READ, None) or (None, 0)
        if rows is None or x.shape[:-1].numel() != tokens:  # of an expert that sees some tokens alone
            result: Tensor = whole(x)
            return result
        some = whole(x.flatten(0, -2).index_select(0, rows))
        result = some.new_zeros(tokens, some.shape[-1]).index_copy(0, rows, some)
        return result.view(*x.shape[:-1], -1)

    return forward


def unique_indices(at: Tensor) -> Tensor:
    """The different ones of some indices, for ``reading``; best found on the CPU, where nobody has to wait for it."""
    once: Tensor = torch.unique(at)
    return once


@contextmanager
def reading(model: nn.Module, rows: Tensor | None, tokens: int) -> Iterator[None]:
    """During a forward pass, which tokens will be read.

    Args:
        model: The transformers model.
        rows: ``(n,)`` different indices into the flattened tokens; ``None``: all.
        tokens: Of how many.
    """
    setattr(model, _READ, (rows, tokens) if rows is not None and worth_pruning(len(rows), tokens) else None)
    try:
        yield
    finally:
        setattr(model, _READ, None)
