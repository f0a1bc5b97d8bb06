"""Continue rows of tokens: with the model's cache where that is exact, else by computing each row anew.

Prompts of different length are padded on the left, so that every row's next token comes from the last column. Padding
is hidden by the attention mask and positions count real tokens only: a prompt gets the answer that it gets alone. Some
families break that promise: state-space layers see padding, caches cannot drop a row, positions count columns, or there
is no cache at all. So each model is tried on a few tokens, and uses the first of these methods that is exact:

1. ``TOGETHER``: rows share a batch and the model's cache; those that have ended leave it.
2. ``STATES``: the same with a cache of states alone, for which the mask hides padding in the first pass only.
3. ``ALONE``: one row at a time with the cache, which needs no padding.
4. ``ANEW``: no cache; each row is computed as a whole for every token.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhfcli.core.families.rotary import rotating_by_own_length
from rlhfcli.errors import ModelError

Method = Literal["together", "states", "alone", "anew"]
TOGETHER: Method = "together"
STATES: Method = "states"
ALONE: Method = "alone"
ANEW: Method = "anew"
_METHOD = "_rlhf_continues"  # attribute of the model: its method
_CACHES = ("past_key_values", "cache_params", "state")  # names of the cache in different families
_PROBE = (3, 11, 6)  # tokens of the prompts that a model is tried on: more padding than a convolution is wide
_STEPS = 3  # tokens that follow; a row leaves after the first
_EXACT = {torch.float32: 1e-4}  # largest difference of logits, as a share of the largest; of other precisions 3e-2
_FAILS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError)


class Continuation(Protocol):
    """Rows of tokens, and the logits of their next tokens."""

    logits: Tensor
    """``(rows, vocabulary)``, float32."""

    def feed(self, tokens: Tensor) -> None:
        """Append a token to each row and compute the next logits.

        Args:
            tokens: ``(rows,)`` ids.
        """

    def keep(self, rows: list[int]) -> None:
        """Continue with some rows only.

        Args:
            rows: Their numbers.
        """


def start_continuation(
    model: PreTrainedModel, prompts: Sequence[list[int]], pad_id: int, method: Method
) -> Continuation:
    """Compute prompts, to be continued.

    Args:
        model: A causal language model.
        prompts: Token ids; only one prompt unless the method can batch.
        pad_id: Id of the padding beside shorter rows.
        method: The model's ``continuation_method``.
    """
    return _Anew(model, prompts) if method == ANEW else _Cached(model, prompts, pad_id, method)


def can_batch(method: Method) -> bool:
    """Return whether several rows may be continued at once.

    Args:
        method: The model's ``continuation_method``.
    """
    return method in (TOGETHER, STATES)


def continuation_method(model: Any) -> Method:
    """Return the fastest exact method by which a model continues rows; it is tried once for each model.

    Args:
        model: A causal language model.

    Raises:
        ModelError: It does not even compute a row of tokens.
    """
    method: Method | None = getattr(model, _METHOD, None)
    if method is None:
        training = model.training
        model.eval()
        try:
            method = _find_method(model)
        finally:
            model.train(training)
        object.__setattr__(model, _METHOD, method)
    return method


def slow_reason(model: Any) -> str:
    """Return why a model does not answer many prompts at a time, for people; empty where it does.

    Args:
        model: A causal language model.
    """
    family = type(model).__name__
    return {
        ALONE: f"{family} gives other answers in a batch than alone: its answers are computed one at a time, slowly",
        ANEW: f"{family} has no cache that can be used: its answers are computed anew for every token, slowly",
    }.get(continuation_method(model), "")


@torch.inference_mode()
def _find_method(model: Any) -> Method:
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
    for method, groups in ((TOGETHER, [[0, 1, 2]]), (STATES, [[0, 1, 2]]), (ALONE, [[0], [1]])):
        if all(_is_exact(model, method, [(rows[i], expected[i]) for i in group], tolerance) for group in groups):
            return method
    return ANEW


def _is_exact(model: Any, method: Method, known: list[tuple[list[int], Tensor]], tolerance: float) -> bool:
    """Return whether rows with the cache, one of which leaves, have the logits of whole rows."""
    prompts = [row[:-_STEPS] for row, _ in known]
    try:
        cached = _Cached(model, prompts, 0, method)
        for step in range(_STEPS):
            expected = torch.stack([logits[len(row) - _STEPS - 1 + step] for row, logits in known])
            if not bool((cached.logits - expected).abs().max() <= tolerance):  # also where it is NaN
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
    """Compute the ``(1, tokens, vocabulary)`` logits of a whole row."""
    logits: Tensor = model(input_ids=ids, **_accepted(model, use_cache=False)).logits.float()
    return logits


def _accepted(model: Any, **options: Any) -> dict[str, Any]:
    """Return the options that a family's forward pass names: some ignore others without an error."""
    parameters = inspect.signature(model.forward).parameters
    return {name: value for name, value in options.items() if name in parameters}


class _Cached:
    """Rows padded on the left, with the family's own cache."""

    def __init__(self, model: Any, prompts: Sequence[list[int]], pad_id: int, method: Method) -> None:
        self._model, self._method = model, method
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
        """See ``Continuation``."""
        tokens = tokens.to(self._device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        self._run(tokens, self._mask.sum(dim=1, keepdim=True) - 1)

    def keep(self, rows: list[int]) -> None:
        """See ``Continuation``."""
        index = torch.tensor(rows, device=self._device)
        self._mask = self._mask[index]
        with torch.inference_mode():
            self._cache = _selected(self._cache, index)

    def _run(self, ids: Tensor, positions: Tensor) -> None:
        """Compute new columns ``(rows, columns)``, and set ``logits`` ``(rows, vocabulary)``."""
        options = _accepted(self._model, position_ids=positions, logits_to_keep=1)
        if self._method == TOGETHER or (self._method == STATES and self._cache is None):
            options["attention_mask"] = self._mask
        with torch.inference_mode(), rotating_by_own_length(self._model):
            output = self._model(input_ids=ids, use_cache=True, **{self._name: self._cache}, **options)
            self._cache = getattr(output, self._name)
            if self._cache is None:
                raise ValueError("no cache came back")
            self.logits: Tensor = output.logits[:, -1].float()


def _selected(cache: Any, index: Tensor) -> Any:
    """Return some rows of a cache: transformers' own, or a list of tensors."""
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
        """See ``Continuation``."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        self._run()

    def keep(self, rows: list[int]) -> None:
        """See ``Continuation``."""
        self._rows = [self._rows[row] for row in rows]

    def _run(self) -> None:
        ids = (torch.tensor([row], device=self._model.device) for row in self._rows)
        with torch.inference_mode(), rotating_by_own_length(self._model):
            self.logits: Tensor = torch.cat([_logits(self._model, row)[:, -1] for row in ids])
