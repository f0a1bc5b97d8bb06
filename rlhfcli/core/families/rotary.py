"""Rotary positions that depend on the length of a sequence: rotate each by its own length, whatever shares its batch.

LongRoPE (Phi-3) has two sets of frequencies, one for sequences up to ``original_max_position_embeddings`` and one for
longer ones; dynamic NTK changes them with every length beyond ``max_position_embeddings``, and remembers the longest.
transformers takes the longest sequence of the batch: a short one is then computed with the frequencies of a long one,
and its loss, reward or answer depends on its neighbours. Here every sequence beyond that limit is rotated by its own
length, and the others together. That needs a row for each sequence, so such data is padded and not laid out as trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from rlhfcli.core.families.backbone import backbone_of

_LENGTHS = "_rlhf_lengths"  # attribute of a rotary module during a forward pass: the lengths of its rows


def rotation_limit(config: Any) -> int | None:
    """Return the length up to which rotations do not depend on it; ``None`` where they never do.

    Args:
        config: A transformers config.
    """
    config = config.get_text_config()
    found = getattr(config, "rope_parameters", None) or {}
    sections = [found, *(value for value in found.values() if isinstance(value, dict))]
    limits = []
    for section in sections:
        kind = str(section.get("rope_type", section.get("type", "")))
        if kind == "longrope":
            limits.append(section.get("original_max_position_embeddings"))
        elif "dynamic" in kind:
            limits.append(getattr(config, "max_position_embeddings", None))
    return min((int(limit) for limit in limits if limit), default=None)


def length_dependence(model: Any, longest: int) -> str | None:
    """Return why each sequence of a model needs a row of its own.

    Args:
        model: A transformers model.
        longest: Tokens of the longest sequence that it will see.

    Returns:
        The reason, for people, or ``None``: they do not.
    """
    limit = rotation_limit(model.config)
    if limit is None or longest <= limit:
        return None
    return f"{type(model).__name__} rotates sequences of more than {limit:,} tokens by their length"


@contextmanager
def rotating_by_own_length(model: Any) -> Iterator[None]:
    """Let a model rotate every row by its own length, within a block.

    Args:
        model: A transformers model; nothing changes where lengths do not matter.
    """
    limit = rotation_limit(model.config)
    if limit is None:
        yield
        return
    modules = [module for module in model.modules() if "RotaryEmbedding" in type(module).__name__]

    def note_lengths(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        lengths = mask.sum(dim=-1) if isinstance(mask, Tensor) and mask.dim() == 2 else None
        for module in modules:
            setattr(module, _LENGTHS, lengths)

    with ExitStack() as stack:
        stack.callback(backbone_of(model).register_forward_pre_hook(note_lengths, with_kwargs=True).remove)
        for module in modules:
            stack.callback(delattr, module, "forward")  # of the instance: the class's is seen again
            stack.callback(_reset_longest, module)
            stack.callback(vars(module).pop, _LENGTHS, None)
            module.forward = _rotating(module, module.forward, limit)
        yield


def _rotating(module: nn.Module, whole: Any, limit: int) -> Any:
    @torch.no_grad()
    def forward(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        _reset_longest(module)
        lengths = getattr(module, _LENGTHS, None)
        rows = x.shape[0] if lengths is None else len(lengths)
        positions = position_ids.expand(rows, -1)
        own = positions.max(dim=-1).values + 1 if lengths is None else lengths
        if isinstance(own, FakeTensor):  # a dry run: the memory it takes does not depend on the lengths
            return whole(x, position_ids, *args, **kwargs)  # type: ignore[no-any-return]
        long = [row for row, length in enumerate(own.tolist()) if length > limit]
        if not long or rows == 1:
            cos, sin = whole(x, _inside(positions, own) if rows == 1 else position_ids, *args, **kwargs)
            return cos, sin
        parts = [[row] for row in long]
        if len(long) < rows:
            parts.append([row for row in range(rows) if row not in set(long)])
        rotations = []
        for part in parts:
            _reset_longest(module)
            rotations.append(whole(x[part], _inside(positions[part], own[part]), *args, **kwargs))
        order = torch.tensor([row for part in parts for row in part], device=x.device).argsort()
        cosines, sines = zip(*rotations, strict=True)
        return torch.cat(cosines)[order], torch.cat(sines)[order]

    return forward


def _inside(positions: Tensor, lengths: Tensor) -> Tensor:
    """Clip positions to the row's own length: those of the padding behind it would count, too."""
    return torch.minimum(positions, (lengths[:, None] - 1).clamp(min=0))


def _reset_longest(module: nn.Module) -> None:
    """Reset the longest sequence so far (see ``dynamic_rope_update`` of transformers)."""
    original = getattr(module, "original_max_seq_len", None)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, original)
    for name, first in list(module.named_buffers(recurse=False)):
        if name.endswith("original_inv_freq"):
            module.get_buffer(name.replace("original_inv_freq", "inv_freq")).data = first.clone()
