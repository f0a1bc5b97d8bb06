"""The parts of a transformers model, under whatever names: its backbone and its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def head_is_apart(model: Any) -> bool:
    """Return whether a model's logits are those of its head on the last hidden states, soft-capped where it says so.

    This is tried on a few tokens: some families scale their logits as well.

    Args:
        model: A transformers model.
    """
    if model.get_output_embeddings() is None:
        return False
    ids = torch.tensor([probe_ids(model, 8)], device=model.device)
    try:
        logits = model(ids, use_cache=False).logits
        ours = logits_of(model, backbone_of(model)(ids, use_cache=False).last_hidden_state)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    return logits.shape == ours.shape and bool((logits - ours).abs().max() <= 1e-5 * logits.abs().max())


def logits_of(model: Any, states: Tensor) -> Tensor:
    """Compute logits from the last hidden states, soft-capped where the model's config says so.

    Args:
        model: A transformers ``…ForCausalLM`` of which ``head_is_apart`` is true.
        states: ``(…, hidden)``.

    Returns:
        ``(…, vocabulary)``.
    """
    logits: Tensor = model.get_output_embeddings()(states)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * (logits / cap).tanh() if cap else logits


def backbone_of(model: Any) -> Any:
    """Return the part of a transformers model below its head.

    Args:
        model: A transformers model; one without a head is its own backbone.
    """
    return getattr(model, model.base_model_prefix, model)


def probe_ids(model: Any, count: int) -> list[int]:
    """Return token ids to try a model on: different ones, and the same every time.

    Args:
        model: A transformers model.
        count: Number of ids.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    return [(7 * i + 1) % vocabulary for i in range(count)]


def vocabulary_size(model: Any) -> int:
    """Return how many logits the head of a language model computes for each token.

    Args:
        model: A transformers language model.
    """
    return int(model.config.get_text_config().vocab_size)
