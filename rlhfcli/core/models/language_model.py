"""The language model as phase 1 trains it: logits only where there is a label, and in parts where they are many.

A vocabulary has 50,000 to 250,000 tokens: the logits of one micro-batch, their softmax and its gradient may take more
memory than all the rest. Logits of tokens that predict no target are never computed. Where the others are very many,
the head and the loss are computed for some targets at a time, and once more in the backward pass: that saves memory,
and costs one more product with the head's weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhfcli.core.families.backbone import backbone_of, logits_of, vocabulary_size
from rlhfcli.core.losses import next_token
from rlhfcli.core.packing.last_layer import needed_tokens

WHOLE = 2**27  # logits that are computed at once; in float32 half a GiB, and as much again for softmax and gradients
CHUNK = 2**25  # logits of a part where there are more


class CausalLM(nn.Module):
    """A language model that computes logits only at chosen tokens.

    Args:
        model: A transformers ``…ForCausalLM``.
        bf16: Compute in bfloat16 (the weights stay as they are).
        head_apart: Whether the head may be computed apart from the rest (see ``head_is_apart``).
    """

    def __init__(self, model: Any, *, bf16: bool = False, head_apart: bool = False) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.head_apart = head_apart

    def forward(
        self, positions: Tensor, unique_positions: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the logits at chosen tokens, or their loss.

        Args:
            positions: ``(n,)`` indices into the flattened batch.
            unique_positions: ``(at most n,)`` the same indices, each once; without them the last layer is not pruned.
            labels: ``(n,)`` the id of the token that follows each of them.
            inputs: Keyword arguments of the transformers model (see ``Layout.inputs``).

        Returns:
            ``(n, vocabulary)`` logits; with labels, the loss and the right predictions (see ``losses.next_token``).
        """
        autocast = torch.autocast(positions.device.type, dtype=torch.bfloat16, enabled=self.bf16)
        with autocast, needed_tokens(self.model, unique_positions, inputs["input_ids"].numel()):
            if labels is not None and self.head_apart and len(positions) * vocabulary_size(self.model) > WHOLE:
                return self._in_parts(positions, labels, inputs)
            if "plan" in inputs:  # one row: the family's own forward can pick tokens before its head
                logits = self.model(**inputs, logits_to_keep=positions).logits[0]
            else:
                logits = self.model(**inputs).logits.flatten(0, 1).index_select(0, positions)
            return logits if labels is None else next_token(logits, labels)

    def _in_parts(self, positions: Tensor, labels: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        def loss_of(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return next_token(logits_of(self.model, states), labels)

        states = backbone_of(self.model)(**inputs).last_hidden_state.flatten(0, 1)
        size = max(1, CHUNK // vocabulary_size(self.model))
        parts = zip(positions.split(size), labels.split(size), strict=True)  # type: ignore[no-untyped-call]
        sums = [checkpoint(loss_of, states.index_select(0, at), own, use_reentrant=False) for at, own in parts]
        losses, correct = zip(*sums, strict=True)
        return torch.stack(losses).sum(), torch.stack(correct).sum()
