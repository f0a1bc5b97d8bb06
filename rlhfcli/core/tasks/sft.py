"""Phase 1, supervised fine-tuning: predict the next token of the answers.

The loss of a batch is the cross entropy over its target tokens, ``- 1 / n * sum of log p(token | tokens before it)``;
which tokens are targets (``sft.loss_on``) was recorded as spans when the dialogues were encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlhfcli.core.packing.layout import lay_out, spans
from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.core.tasks.task import Batch, Forward, KnowsTrees, Sums, origin_of
from rlhfcli.data.encoding.encoded import EncodedDialogue
from rlhfcli.files.run_layout import SFT, Phase


@dataclass(frozen=True)
class SftBatch(Batch):
    """Dialogues, ready for the language model.

    ``positions`` has an entry for every target: the token before it, whose logits predict it. Where dialogues branch,
    one token predicts several targets, and its index occurs as often.

    Args:
        labels: ``(n,)`` the token id to predict at each of ``positions``.
    """

    labels: Tensor


class SftTask:
    """Phase 1: predict the next token of the assistant's turns (or of everything).

    Args:
        dialogues: The examples.
        loss_on: ``all``: every token is a target; else those in the dialogues' ``spans``.
        packed: Whether the model computes token trees.
        pad_id: Id of the tokenizer's pad token.
    """

    name: Phase = SFT
    accuracy = "token_accuracy"
    nll = "loss"

    def __init__(self, dialogues: Sequence[EncodedDialogue], loss_on: str, *, packed: bool, pad_id: int) -> None:
        self.dialogues = dialogues
        self.loss_on = loss_on
        self.packed = packed
        self.pad_id = pad_id

    @cached_property
    def _micro_batches(self) -> MicroBatches:
        examples = self.dialogues
        trees = examples.trees() if isinstance(examples, KnowsTrees) else ((each.ids, [[]]) for each in examples)
        return MicroBatches(trees, packed=self.packed)

    def lengths(self) -> list[int]:
        """Return the number of tokens of each dialogue."""
        return self._micro_batches.tokens

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Cut dialogues into micro-batches.

        Args:
            rows: Numbers of the dialogues, each once.
            budget: Tokens that a micro-batch may have; a longer dialogue gets one of its own.
        """
        return self._micro_batches.cut(rows, budget)

    def collate(self, rows: Sequence[int]) -> SftBatch:
        """Lay dialogues out, and find their targets and the tokens that predict them.

        Args:
            rows: Numbers of the dialogues.
        """
        dialogues = [self.dialogues[row] for row in rows]
        layout = lay_out([dialogue.ids for dialogue in dialogues], packed=self.packed, pad_id=self.pad_id)
        targets = [
            (number, max(first, 1), end)
            for number, dialogue in enumerate(dialogues)
            for first, end in self._target_spans(dialogue)
            if end > max(first, 1)  # the very first token has nothing before it
        ]
        sequence, firsts, ends = torch.tensor(targets, dtype=torch.long).reshape(-1, 3).unbind(1)
        places, span = spans(firsts, ends)
        labels = layout.input_ids.flatten()[layout.index[sequence[span], places]]
        positions = layout.index[sequence[span], places - 1]
        return SftBatch(layout, positions, torch.unique(positions), len(rows), tuple(rows), labels)

    def _target_spans(self, dialogue: EncodedDialogue) -> list[tuple[int, int]]:
        return [(0, len(dialogue.ids))] if self.loss_on == "all" else dialogue.spans

    def weight(self, batch: SftBatch) -> int:
        """Return the number of target tokens.

        Args:
            batch: Some dialogues.
        """
        return len(batch.labels)

    def step(self, forward: Forward, batch: SftBatch) -> Sums:
        """Compute the summed cross entropy, and how many targets had the highest logit.

        Args:
            forward: The language model's forward pass (see ``CausalLM``).
            batch: Some dialogues, on the model's device.
        """
        loss, correct = forward(**batch.inputs(), labels=batch.labels)
        return {"loss": loss, "correct": correct}

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Return the loss per token in nats, and the token accuracy.

        Args:
            sums: The results of ``step``, added up by name.
            weight: Number of target tokens.
        """
        return {"loss": sums["loss"] / weight, "token_accuracy": sums["correct"] / weight}

    def formula(self) -> str:
        """Return nothing: the loss is the nll."""
        return ""

    def origin(self, row: int) -> str:
        """Return where a dialogue came from.

        Args:
            row: Its number.
        """
        return origin_of(self.dialogues, row)
