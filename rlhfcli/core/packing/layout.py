"""How sequences become one batch: token trees where the model allows it, a padded rectangle where it does not.

Token trees (see ``forest``) need no padding and compute what sequences share once. The model has to do two things: take
positions from us, and hand the plan of the forest on to the attention function that is registered for it (see
``tree_attention``). ``packing_unsupported`` finds out by comparing both layouts on a few tokens; other families get the
rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.movable import Movable
from rlhfcli.core.packing.backbone import backbone_of, probe_ids
from rlhfcli.core.token_trees.attention_plan import AttentionPlan, make_plan
from rlhfcli.core.token_trees.forest import build_forest, pad_right
from rlhfcli.core.token_trees.tree_attention import TREES, attention


@dataclass(frozen=True)
class Layout(Movable):
    """Sequences, laid out for one forward pass.

    Args:
        input_ids: ``(1, tokens)`` token trees, or ``(sequences, longest)`` padded on the right.
        position_ids: Same shape; the place of each token within its sequence.
        attention_mask: Same shape; 1 where there is a token, 0 where there is padding. ``None`` for token trees.
        plan: The attention plan of token trees, ``None`` for the padded layout.
        index: ``(sequences, longest)`` where token ``t`` of sequence ``s`` stands once ``input_ids`` is flattened.
        lengths: ``(sequences,)``.
        tokens: Number of tokens that are computed, padding left out.
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
        packed: As token trees, or as a rectangle padded on the right.
        pad_id: What to fill the rectangle with.
        share: Merge what begins alike; without, each sequence is a tree of its own (for comparison).

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
    """All indices of several half-open ranges, and which range each belongs to.

    Args:
        begins: ``(ranges,)``.
        ends: ``(ranges,)``, not below ``begins``.

    Returns:
        ``(tokens,)`` indices and ``(tokens,)`` range numbers.
    """
    sizes = ends - begins
    segments = torch.arange(len(sizes)).repeat_interleave(sizes)
    offsets = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return begins.repeat_interleave(sizes) + offsets, segments


def packing_unsupported(model: Any) -> str | None:
    """Why a model cannot compute token trees: tried, not looked up in a table of families.

    Args:
        model: A transformers model, with or without a head.

    Returns:
        The reason, for people, or ``None``: it computes them exactly.
    """
    if "chunked_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        return f"{type(model).__name__} cuts its attention into chunks"  # longer ones than a small probe would notice
    ids = probe_ids(model, 24)
    sequences = [ids[:5], ids[:9], ids[:4] + ids[9:14], ids[14:16], ids[16:]]
    return probe_mismatch(model, sequences, attention(model, TREES))


@torch.no_grad()
def probe_mismatch(model: Any, sequences: Sequence[Sequence[int]], trees: AbstractContextManager[None]) -> str | None:
    """Why a model computes some token trees wrongly: its hidden states are compared with those of the padded layout.

    Args:
        model: A transformers model, with or without a head.
        sequences: Token ids.
        trees: Lets the model compute token trees.

    Returns:
        The reason, for people, or ``None``: it computes them exactly.
    """
    family = type(model).__name__
    backbone = backbone_of(model)

    def hidden(packed: bool) -> Tensor:
        layout = lay_out(sequences, packed=packed, pad_id=0).to(model.device)
        states = backbone(**layout.inputs()).last_hidden_state.flatten(0, 1).float()
        return torch.cat([states[cells[:n]] for cells, n in zip(layout.index, layout.lengths.tolist(), strict=True)])

    training = model.training
    model.eval()
    try:
        padded = hidden(packed=False)
        try:
            with trees:
                difference = (padded - hidden(packed=True)).abs().max()
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:  # no such plan
            return f"{family} computes no token trees ({str(error).splitlines()[0]})"
        tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2
        exact = bool(difference <= tolerance * (padded.abs().max() + 1e-6))
        return None if exact else f"{family} does not take the positions or the attention of token trees"
    finally:
        model.train(training)
