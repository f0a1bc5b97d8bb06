"""Trials on a few tokens: whether a model computes token trees exactly.

Hidden states of a forest are compared with those of the same sequences in a padded batch. Every function here returns a
reason, for people, why a model cannot take a strategy, or ``None`` where it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.families.backbone import backbone_of, probe_ids
from rlhfcli.core.packing.layout import lay_out
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.token_trees.tree_attention_flex import FLEX
from rlhfcli.core.token_trees.tree_mask import FULL, SLIDING, layer_kinds, masked


def trees_unsupported(model: Any) -> str | None:
    """Return why a model cannot compute token trees by our attention function.

    Args:
        model: A transformers model, with or without a head.
    """
    if "chunked_attention" in layer_kinds(model.config):
        return f"{type(model).__name__} cuts its attention into chunks"  # longer than a small probe would notice
    ids = probe_ids(model, 24)
    sequences = [ids[:5], ids[:9], ids[:4] + ids[9:14], ids[14:16], ids[16:]]
    return _mismatch(model, sequences, attention(model, TREES))


def mask_unsupported(model: Any) -> str | None:
    """Return why a model cannot compute token trees by its own attention with a 4-D mask.

    Args:
        model: A transformers model, with or without a head.
    """
    return config_forbids_mask(model.config) or _mismatch(model, _branching(model, 10), masked(model))


def config_forbids_mask(config: Any) -> str | None:
    """Return why a mask cannot tell a family which tokens see which, as far as its config says.

    Args:
        config: A transformers model's config.
    """
    others = sorted(layer_kinds(config) - {FULL, SLIDING})
    if others:
        return f"it has layers of {others[0]}"
    settings = config.get_text_config().to_dict().items()
    windows = [name for name, value in settings if "window" in name and type(value) is int]
    if windows and not layer_kinds(config):  # it would count the cells of the row, only beyond what a probe sees
        return f"its {windows[0]} counts the cells of a row"
    return None


def flex_unsupported(model: Any, *, bf16: bool) -> str | None:
    """Return why a model cannot use FlexAttention here: tried forwards and backwards, as in training.

    Args:
        model: A transformers model that computes token trees, on its device.
        bf16: Whether it computes in bfloat16.
    """
    training = model.training
    model.eval()
    tolerance = 3e-2 if bf16 else 1e-3
    try:
        for branches in (4, 7):  # rows of two lengths: it has to be compiled for any
            by_rectangles = _states_and_gradient(model, branches, bf16, attention(model, TREES))
            by_flex = _states_and_gradient(model, branches, bf16, attention(model, FLEX))
            for expected, result in zip(by_rectangles, by_flex, strict=True):
                if not (expected - result).abs().max() <= tolerance * expected.abs().max():
                    return "it gives other results here"
        return None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise anything
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    finally:
        model.train(training)


@torch.no_grad()
def _mismatch(model: Any, sequences: Sequence[Sequence[int]], trees: AbstractContextManager[None]) -> str | None:
    """Return why a model computes some sequences as token trees wrongly, within ``trees``."""
    family = type(model).__name__
    training = model.training
    model.eval()
    try:
        padded = _hidden_states(model, sequences, packed=False)
        try:
            with trees:
                difference = (padded - _hidden_states(model, sequences, packed=True)).abs().max()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:  # it takes no plan
            return f"{family} computes no token trees ({str(error).splitlines()[0]})"
        tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2
        exact = bool(difference <= tolerance * (padded.abs().max() + 1e-6))
        return None if exact else f"{family} does not take the positions or the attention of token trees"
    finally:
        model.train(training)


def _hidden_states(model: Any, sequences: Sequence[Sequence[int]], *, packed: bool) -> Tensor:
    """Return the ``(tokens, hidden)`` states of all sequences, one behind the other."""
    layout = lay_out(sequences, packed=packed, pad_id=0).to(model.device)
    states = backbone_of(model)(**layout.inputs()).last_hidden_state.flatten(0, 1).float()
    return torch.cat([states[cells[:n]] for cells, n in zip(layout.index, layout.lengths.tolist(), strict=True)])


def _states_and_gradient(model: Any, branches: int, bf16: bool, trees: AbstractContextManager[None]) -> list[Tensor]:
    """Return hidden states of a forest, and one gradient where something is trained."""
    backbone, sequences = backbone_of(model), _branching(model, branches)
    inputs = lay_out(sequences, packed=True, pad_id=0).to(model.device).inputs()
    with trees, torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        states = backbone(**inputs).last_hidden_state
    trained = next((parameter for parameter in backbone.parameters() if parameter.requires_grad), None)
    if trained is None:
        return [states.float()]
    return [states.detach().float(), *torch.autograd.grad(states.float().square().sum(), trained)]


def _branching(model: Any, branches: int) -> list[list[int]]:
    """Return sequences with a common beginning, so long that distances in a row and on a path differ by hundreds."""
    vocabulary = model.get_input_embeddings().num_embeddings
    root = probe_ids(model, 4)
    return [root + [(11 * branch + 5 * i) % vocabulary for i in range(60)] for branch in range(branches)]
