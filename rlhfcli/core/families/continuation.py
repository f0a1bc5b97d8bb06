"""Rows of tokens that grow at their end: with the model's cache where that is exact, else computed anew.

Prompts of different length are padded on the left, so that every row's next token comes from the last column. Pads are
hidden by the attention mask and positions count real tokens only: a prompt gets the answer that it gets alone. Some
families do not keep that promise. State-space layers see pads, caches cannot drop a row, positions count columns, or
there is no cache at all. So each model is tried on a few tokens, and answers in the first of these ways that is exact:

1. ``TOGETHER``: rows share a batch and the model's cache; those that have ended leave it.
2. ``STATES``: the same with a cache of states alone, in which the mask hides pads once and for all.
3. ``ALONE``: one row at a time with the cache, which needs no pads.
4. ``ANEW``: no cache; each row is computed as a whole for every token.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhfcli.core.families.rotary import by_own_length
from rlhfcli.errors import ModelError

Strategy = Literal["together", "states", "alone", "anew"]
TOGETHER: Strategy = "together"
STATES: Strategy = "states"
ALONE: Strategy = "alone"
ANEW: Strategy = "anew"
_FOUND = "_rlhf_continues"  # attribute of the model: the way that was found
_CACHES = ("past_key_values", "cache_params", "state")  # what families call theirs
_PROBE = (3, 11, 6)  # tokens of the prompts that a model is tried on: more pads than a convolution is wide
_STEPS = 3  # tokens that follow; a row leaves after the first
_EXACT = {torch.float32: 1e-4}  # largest difference of logits, as a share of the largest; of other precisions 3e-2
_FAILS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError)


class Continuation(Protocol):
    """Rows of tokens, and what comes next."""

    logits: Tensor
    """``(rows, vocabulary)``, float32."""

    def feed(self, tokens: Tensor) -> None:
        """Append ``(rows,)`` tokens and compute the next logits."""

    def keep(self, rows: list[int]) -> None:
        """Continue with these rows only."""


def continuation(model: PreTrainedModel, prompts: Sequence[list[int]], pad_id: int, strategy: Strategy) -> Continuation:
    """Begin rows.

    Args:
        model: A causal language model.
        prompts: The rows' beginnings; one alone unless ``strategy`` takes more.
        pad_id: What is written beside shorter rows.
        strategy: What ``way_to_continue`` found.
    """
    return _Anew(model, prompts) if strategy == ANEW else _Cached(model, prompts, pad_id, strategy)


def shares_batches(strategy: Strategy) -> bool:
    """Whether several rows may be continued at once."""
    return strategy in (TOGETHER, STATES)


def way_to_continue(model: Any) -> Strategy:
    """The fastest exact way in which a model continues rows; tried once.

    Args:
        model: A causal language model.

    Raises:
        ModelError: It does not even compute a row of tokens.
    """
    found: Strategy | None = getattr(model, _FOUND, None)
    if found is None:
        training = model.training
        model.eval()
        try:
            found = _tried(model)
        finally:
            model.train(training)
        object.__setattr__(model, _FOUND, found)
    return found


def slow_reason(model: Any) -> str:
    """What to tell people about a model that does not answer many prompts at a time; empty for the others.

    Args:
        model: A causal language model.
    """
    family = type(model).__name__
    return {
        ALONE: f"{family} gives other answers in a batch than alone: its answers are computed one at a time, slowly",
        ANEW: f"{family} has no cache that can be used: its answers are computed anew for every token, slowly",
    }.get(way_to_continue(model), "")


@torch.inference_mode()
def _tried(model: Any) -> Strategy:
    vocabulary = model.get_input_embeddings().num_embeddings
    longest = max(_PROBE) + _STEPS
    rows = [[(5 * row + 7 * i + 1) % vocabulary for i in range(n + _STEPS)] for row, n in enumerate(_PROBE)]
    try:
        expected = [_logits(model, torch.tensor([row], device=model.device))[0] for row in rows]
    except torch.OutOfMemoryError:
        raise
    except _FAILS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(model).__name__} cannot read {longest} tokens: {reason}",
            where=str(getattr(model.config, "name_or_path", "")) or None,
            hint="Is this a causal language model of tokens, and are all the packages installed that its family needs?",
        ) from error
    tolerance = _EXACT.get(model.dtype, 3e-2) * float(max(each.abs().max() for each in expected))
    for strategy, groups in ((TOGETHER, [[0, 1, 2]]), (STATES, [[0, 1, 2]]), (ALONE, [[0], [1]])):
        if all(_same(model, strategy, [(rows[i], expected[i]) for i in group], tolerance) for group in groups):
            return strategy
    return ANEW


def _same(model: Any, strategy: Strategy, known: list[tuple[list[int], Tensor]], tolerance: float) -> bool:
    """Whether rows with the cache, one of which leaves, have the logits of whole rows."""
    prompts = [row[:-_STEPS] for row, _ in known]
    try:
        cached = _Cached(model, prompts, 0, strategy)
        for step in range(_STEPS):
            wanted = torch.stack([logits[len(row) - _STEPS - 1 + step] for row, logits in known])
            if not bool((cached.logits - wanted).abs().max() <= tolerance):  # also where it is NaN
                return False
            if step == 0 and len(known) > 1:
                known = known[::2]
                cached.keep([0, 2])
            cached.feed(torch.tensor([row[len(row) - _STEPS + step] for row, _ in known]))
    except torch.OutOfMemoryError:
        raise
    except _FAILS:
        return False
    return True


def _logits(model: Any, ids: Tensor) -> Tensor:
    """``(1, tokens, vocabulary)`` of a whole row."""
    logits: Tensor = model(input_ids=ids, **_accepted(model, use_cache=False)).logits.float()
    return logits


def _accepted(model: Any, **options: Any) -> dict[str, Any]:
    """Those of some options that a family's forward pass names: some swallow what they do not know."""
    parameters = inspect.signature(model.forward).parameters
    return {name: value for name, value in options.items() if name in parameters}


class _Cached:
    """Rows padded on the left, with the family's own cache."""

    def __init__(self, model: Any, prompts: Sequence[list[int]], pad_id: int, strategy: Strategy) -> None:
        self._model, self._way = model, strategy
        self._device = next(model.parameters()).device
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        ids = [[pad_id] * n + prompt for n, prompt in zip(pads, prompts, strict=True)]
        self._mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pads], device=self._device)
        self._cache: Any = None
        parameters = inspect.signature(model.forward).parameters
        self._name = next((name for name in _CACHES if name in parameters), _CACHES[0])
        self._run(torch.tensor(ids, device=self._device), (self._mask.cumsum(dim=1) - 1).clamp(min=0))

    def feed(self, tokens: Tensor) -> None:
        """Append ``(rows,)`` tokens and compute the next logits."""
        tokens = tokens.to(self._device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        self._run(tokens, self._mask.sum(dim=1, keepdim=True) - 1)

    def keep(self, rows: list[int]) -> None:
        """Continue with these rows only."""
        index = torch.tensor(rows, device=self._device)
        self._mask = self._mask[index]
        with torch.inference_mode():
            self._cache = _selected(self._cache, index)

    def _run(self, ids: Tensor, positions: Tensor) -> None:
        """Forward pass over new columns ``(rows, columns)``; sets ``logits`` ``(rows, vocabulary)``."""
        options = _accepted(self._model, position_ids=positions, logits_to_keep=1)
        if self._way == TOGETHER or (self._way == STATES and self._cache is None):
            options["attention_mask"] = self._mask
        with torch.inference_mode(), by_own_length(self._model):
            output = self._model(input_ids=ids, use_cache=True, **{self._name: self._cache}, **options)
            self._cache = getattr(output, self._name)
            if self._cache is None:
                raise ValueError("no cache came back")
            self.logits: Tensor = output.logits[:, -1].float()


def _selected(cache: Any, index: Tensor) -> Any:
    """Some rows of a cache: transformers' own, or tensors."""
    if isinstance(cache, list | tuple):
        return [tensor.index_select(0, index) for tensor in cache]
    for layer in cache.layers:  # batch_select_indices of some layers forgets their states, and others have none
        layer.reorder_cache(index)
    return cache


class _Anew:
    """Rows that are computed as a whole, and alone, for every token."""

    def __init__(self, model: Any, prompts: Sequence[list[int]]) -> None:
        self._model = model
        self._rows = [list(prompt) for prompt in prompts]
        self._run()

    def feed(self, tokens: Tensor) -> None:
        """Append ``(rows,)`` tokens and compute the next logits."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        self._run()

    def keep(self, rows: list[int]) -> None:
        """Continue with these rows only."""
        self._rows = [self._rows[row] for row in rows]

    def _run(self) -> None:
        ids = (torch.tensor([row], device=self._model.device) for row in self._rows)
        with torch.inference_mode(), by_own_length(self._model):
            self.logits: Tensor = torch.cat([_logits(self._model, row)[:, -1] for row in ids])
