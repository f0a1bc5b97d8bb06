"""How sequences become one batch: token trees where the model allows it, a padded rectangle where it does not.

Token trees (see ``forest``) need no padding, and compute once what sequences share. The model has to take positions
from us, and has to hand the plan of the forest on to the attention function that is registered for it (see
``tree_attention``); ``choose_strategy`` finds out whether it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.movable import Movable
from rlhfcli.core.token_trees.attention_plan import AttentionPlan, make_plan
from rlhfcli.core.token_trees.forest import build_forest, pad_right


@dataclass(frozen=True)
class Layout(Movable):
    """Sequences, laid out for one forward pass; one of the two layouts.

    Args:
        input_ids: ``(1, tokens)`` token trees, or ``(sequences, longest)`` padded on the right.
        position_ids: Same shape; the position of each token within its sequence.
        attention_mask: Same shape; 1 where there is a token, 0 where there is padding. ``None`` for token trees.
        plan: The attention plan of token trees; ``None`` for the padded layout.
        index: ``(sequences, longest)`` the index of token ``t`` of sequence ``s`` in the flattened ``input_ids``.
        lengths: ``(sequences,)`` number of tokens of each.
        tokens: Number of computed tokens, without padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    plan: AttentionPlan | None
    index: Tensor
    lengths: Tensor
    tokens: int

    def inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of a transformers model."""
        inputs: dict[str, Any] = {"input_ids": self.input_ids, "use_cache": False}
        if self.plan is None:
            return inputs | {"attention_mask": self.attention_mask}
        return inputs | {"position_ids": self.position_ids, "plan": self.plan}


def lay_out(sequences: Sequence[Sequence[int]], *, packed: bool, pad_id: int, share: bool = True) -> Layout:
    """Lay sequences out for one forward pass.

    Args:
        sequences: Token ids, none empty.
        packed: Whether as token trees; else as a rectangle padded on the right.
        pad_id: Id of the padding.
        share: Whether to merge sequences that begin alike; else each is a tree of its own (for comparison).

    Returns:
        The layout, on the CPU.
    """
    if packed:
        forest = build_forest(sequences, share=share)
        plan = make_plan(forest)
        ids, positions = forest.ids[None], forest.positions[None]
        return Layout(ids, positions, None, plan, forest.index, forest.lengths, ids.shape[1])
    lengths, ids = pad_right(sequences, pad_id)
    columns = torch.arange(ids.shape[1])
    mask = columns < lengths[:, None]
    index = torch.arange(ids.numel()).view_as(ids)
    return Layout(ids, columns.expand_as(ids).contiguous(), mask.long(), None, index, lengths, int(mask.sum()))


def spans(begins: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """List all indices of several half-open ranges, and the range that each belongs to.

    Args:
        begins: ``(ranges,)`` first indices.
        ends: ``(ranges,)`` ends, not below ``begins``.

    Returns:
        ``(tokens,)`` indices and ``(tokens,)`` range numbers.
    """
    sizes = ends - begins
    segments = torch.arange(len(sizes)).repeat_interleave(sizes)
    offsets = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return begins.repeat_interleave(sizes) + offsets, segments
