"""How sequences become one batch: packed without padding where the model allows it, padded where it does not.

Packed, all sequences stand one behind the other in a single row of tokens, positions restart with each, and every layer
computes each token once. Only attention has to know where a sequence begins: a ``Plan`` gathers the tokens of each
sequence into a small rectangle just for the attention kernel, and scatters the result back. Because the kernel is
causal and the filling stands on the right, no token ever sees it, so the result is exact and no mask is needed.

transformers lets a model take its attention from a registry; ``ours`` is registered there, and the plan travels as a
keyword argument of the forward call. Families that do not pass it on (or add position biases of their own) are found by
``packs_exactly``, which simply compares both layouts on a few tokens, and get the padded layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

PACKED = "rlhf_packed"
_NOT_PACKED = ("softcap", "position_bias", "s_aux")  # what some families' attention adds to the plain one
# rows of so many tokens are faster without torch's CPU flash kernel, whose backward pass is slow in bf16 (measured on
# two cores with AVX-512: 4 times at 90 tokens in bf16, 1.15 times in float32; beyond these lengths it wins)
_SHORT = {torch.float32: 128, torch.bfloat16: 512, torch.float16: 0, torch.float64: 0}


@dataclass(frozen=True)
class Plan:
    """Where the tokens of a packed row stand during attention.

    Args:
        groups: One index of shape ``(sequences, longest)`` per group of sequences of similar length: which token of
            the row stands in that cell. Filling cells repeat the first token of the row; nobody looks at them.
        scatter: ``(tokens,)`` for each token of the row, its cell in the concatenation of all groups.
    """

    groups: tuple[Tensor, ...]
    scatter: Tensor


@dataclass(frozen=True)
class Layout:
    """Sequences, laid out for one forward pass.

    Args:
        ids: ``(1, tokens)`` packed, or ``(sequences, longest)`` padded on the right.
        positions: Same shape; the place of each token within its sequence.
        mask: ``None`` packed; padded, 1 where there is a token.
        plan: The attention plan of a packed row.
        starts: ``(sequences,)`` where each sequence begins once ``ids`` is flattened. Token ``t`` of sequence ``s`` is
            number ``starts[s] + t``, in both layouts.
        tokens: Number of real tokens.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    plan: Plan | None
    starts: Tensor
    tokens: int

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for a transformers model."""
        inputs: dict[str, Any] = {"input_ids": self.ids, "use_cache": False}
        if self.plan is None:
            return inputs | {"attention_mask": self.mask}
        return inputs | {"position_ids": self.positions, "plan": self.plan}

    def to(self, device: torch.device | str) -> Layout:
        """The same on another device."""
        plan = self.plan and Plan(tuple(group.to(device) for group in self.plan.groups), self.plan.scatter.to(device))
        mask = None if self.mask is None else self.mask.to(device)
        return Layout(self.ids.to(device), self.positions.to(device), mask, plan, self.starts.to(device), self.tokens)


def lay_out(sequences: Sequence[Sequence[int]], *, packed: bool, pad_id: int) -> Layout:
    """Lay sequences out for one forward pass.

    Args:
        sequences: Token ids, none empty.
        packed: Without padding, or as a rectangle padded on the right.
        pad_id: What to fill the rectangle with.

    Returns:
        The layout, on the CPU.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    flat = torch.tensor([token for sequence in sequences for token in sequence])
    ends = lengths.cumsum(0)
    starts = ends - lengths
    positions = torch.arange(len(flat)) - starts.repeat_interleave(lengths)
    if packed:
        return Layout(flat[None], positions[None], None, make_plan(lengths), starts, len(flat))
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    ids = torch.full(mask.shape, pad_id)
    ids[mask] = flat
    grid = torch.arange(longest).expand(len(sequences), -1)
    return Layout(ids, grid, mask.long(), None, torch.arange(len(sequences)) * longest, len(flat))


def make_plan(lengths: Tensor) -> Plan:
    """Group sequences of similar length into rectangles.

    A group takes sequences down to half the length of its longest, so at most half of a rectangle is filling; what
    the attention of a few more cells costs is small beside the linear layers, which see none of them.

    Args:
        lengths: ``(sequences,)`` in the order of the row.

    Returns:
        The plan.
    """
    starts = lengths.cumsum(0) - lengths
    order = lengths.argsort(descending=True, stable=True).tolist()
    sizes = lengths.tolist()
    scatter = torch.empty(int(lengths.sum()), dtype=torch.long)
    groups, offset = [], 0
    for members in _by_length(order, sizes):
        longest = sizes[members[0]]
        rows = torch.tensor(members)
        columns = torch.arange(longest)
        real = columns < lengths[rows, None]
        cells = starts[rows, None] + columns
        groups.append(torch.where(real, cells, 0))
        scatter[cells[real]] = offset + torch.arange(real.numel()).view_as(real)[real]
        offset += real.numel()
    return Plan(tuple(groups), scatter)


def _by_length(order: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Consecutive runs of ``order`` (longest first) whose lengths differ by less than a factor of two."""
    members: list[int] = []
    for index in order:
        if members and sizes[index] * 2 < sizes[members[0]]:
            yield members
            members = []
        members.append(index)
    yield members


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    plan: Plan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row; registered with transformers as ``rlhf_packed``.

    Args:
        module: The attention layer that calls.
        query: ``(1, heads, tokens, dimension)``; key and value may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        attention_mask: Not used: the plan says it all.
        plan: How the row is cut into sequences; without one, plain causal attention.
        options: ``dropout``, ``scaling``, ``sliding_window`` ... of the family.

    Returns:
        ``(1, tokens, heads, dimension)`` and no attention weights.

    Raises:
        ValueError: The family's attention does something that this one does not.
    """
    if plan is None:
        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result, None
    unknown = [name for name in _NOT_PACKED if options.get(name) is not None]
    if unknown:  # left out they would change the result, by too little for a small probe to notice
        raise ValueError(f"packed attention has no {unknown[0]}")
    window = options.pop("sliding_window", None)
    options["is_causal"] = None
    results = []
    for group in plan.groups:
        longest = group.shape[1]
        rows = [_gather(tensor, group) for tensor in (query, key, value)]
        mask = _window_mask(longest, window, group.device) if window and longest > window else None
        if query.device.type == "cpu" and mask is None and longest <= _SHORT[query.dtype]:
            result = _short_attention(rows[0], rows[1], rows[2], options)
        else:
            result, _ = sdpa_attention_forward(module, rows[0], rows[1], rows[2], mask, **options)
        results.append(result.flatten(0, 1))
    return torch.cat(results).index_select(0, plan.scatter)[None], None


def _short_attention(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """``softmax(q k^T * scale) v`` written out; softmax in float32, as transformers' own eager attention.

    Args:
        query: ``(sequences, heads, longest, dimension)``; key and value may have fewer heads.
        key: See ``query``.
        value: See ``query``.
        options: ``scaling`` and ``dropout``.

    Returns:
        ``(sequences, longest, heads, dimension)``.
    """
    longest, repeats = query.shape[2], query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    future = torch.full((longest, longest), -torch.inf, dtype=query.dtype).triu(1)
    weights = (query * scale @ key.transpose(-1, -2) + future).softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, options.get("dropout", 0.0))
    return (weights @ value).transpose(1, 2)


def _gather(tensor: Tensor, group: Tensor) -> Tensor:
    """``(1, heads, tokens, dimension)`` to ``(sequences, heads, longest, dimension)``."""
    # index_select: its backward pass is several times faster on a CPU than that of tensor[index]
    cells = tensor[0].transpose(0, 1).index_select(0, group.flatten())
    return cells.view(*group.shape, *cells.shape[1:]).transpose(1, 2)


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """``(1, 1, length, length)`` true where a token sees another: itself and the ``window - 1`` before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return ((distance >= 0) & (distance < window))[None, None]


AttentionInterface.register(PACKED, packed_attention)


@contextmanager
def attention(model: Any, name: str | None) -> Iterator[None]:
    """Let a transformers model use another registered attention function for a while; ``None``: its own."""
    before = model.config._attn_implementation
    if name is None or before == name or not model._can_set_attn_implementation():
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def packs_exactly(model: Any) -> bool:
    """Whether a model gives the same result packed as padded: tried, not looked up in a table of families.

    Args:
        model: A transformers model, with or without a head.

    Returns:
        False for families that do not hand the plan to their attention, or whose positions come from the mask.
    """
    backbone = getattr(model, model.base_model_prefix, model)
    vocabulary = backbone.get_input_embeddings().num_embeddings
    sequences = [[(7 * i + 3 * j + 1) % vocabulary for j in range(length)] for i, length in enumerate((5, 9, 2, 4))]
    training = model.training
    model.eval()

    def hidden(packed: bool) -> Tensor:
        layout = lay_out(sequences, packed=packed, pad_id=0).to(model.device)
        with attention(model, PACKED if packed else None):
            states = backbone(**layout.inputs()).last_hidden_state.flatten(0, 1).float()
        return torch.cat([states[s : s + len(q)] for s, q in zip(layout.starts, sequences, strict=True)])

    try:
        padded = hidden(packed=False)
        try:
            difference = (padded - hidden(packed=True)).abs().max()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError):  # the family knows no plan, or no such attention
            return False
        tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2
        return bool(difference <= tolerance * (padded.abs().max() + 1e-6))
    finally:
        model.train(training)


def fill(lengths: Sequence[int], budget: int, *, packed: bool) -> list[list[int]]:
    """Cut a list of sequences into micro-batches that hold at most ``budget`` tokens.

    Args:
        lengths: Tokens of each sequence.
        budget: Tokens that fit at once (cells of the rectangle, when padded). A longer sequence stands alone.
        packed: Whether padding is free.

    Returns:
        Lists of indices; similar lengths stand together, which keeps rectangles full.
    """
    batches: list[list[int]] = []
    used = longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        cost = used + lengths[index] if packed else longest * (len(batches[-1]) + 1) if batches else 0
        if not batches or cost > budget:
            batches.append([])
            used, longest = 0, lengths[index]
        batches[-1].append(index)
        used += lengths[index]
    return batches
