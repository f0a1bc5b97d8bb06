"""Measuring a task over many batches: sums first, one division at the end, so that batches do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhfcli.core.families.config_checks import pad_of
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.packing.strategy import choose_strategy, computing_with
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.tasks.task import Batch, Forward, Task
from rlhfcli.core.training.rank_batches import RankBatches
from rlhfcli.data.encoding.encoded import EncodedDialogue


@dataclass(frozen=True)
class LanguageSums:
    """Sums over target tokens.

    Args:
        nll: Negative log-likelihood in nats.
        tokens: Number of targets.
        correct: How many of them had the highest probability.
    """

    nll: float
    tokens: int
    correct: int


class CutShort(Exception):
    """A measurement was ended before its last batch; what it had found so far means nothing."""


@torch.no_grad()
def sums(
    task: Task, forward: Forward, share: RankBatches, device: torch.device, ends: Callable[[], bool] | None = None
) -> tuple[dict[str, float], int]:
    """The task's sums over some batches.

    Args:
        task: What to measure.
        forward: The model, in evaluation mode.
        share: Batches on the CPU; its repeats are computed, too, but not counted.
        device: Where the model is.
        ends: Asked before every batch: whether to leave the rest out. All ranks have to say the same.

    Returns:
        What ``Task.summary`` takes: sums by name, and the weight.

    Raises:
        CutShort: ``ends`` said so.
    """
    totals: dict[str, float] = {}
    for number, batch in enumerate([*share.batches, *share.padding_batches]):
        if ends is not None and ends():
            raise CutShort
        for name, value in task.step(forward, batch.to(device)).items():
            totals[name] = totals.get(name, 0.0) + (float(value) if number < len(share.batches) else 0.0)
    return totals, sum(task.weight(batch) for batch in share.batches)


def measure(task: Task, forward: Forward, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """The task's figures over some batches, exactly weighted.

    Args:
        task: What to measure.
        forward: The model, in evaluation mode.
        batches: On the CPU.
        device: Where the model is.

    Returns:
        What ``Task.summary`` gives, and the ``weight`` it was averaged over.
    """
    totals, weight = sums(task, forward, RankBatches(list(batches), []), device)
    return task.summary(totals, weight) | {"weight": float(weight)}


def measure_dialogues(
    model: Any,
    dialogues: Sequence[EncodedDialogue],
    loss_on: str,
    micro_batch_tokens: int,
    *,
    bf16: bool = False,
) -> LanguageSums:
    """How well a language model predicts dialogues.

    Args:
        model: A transformers causal language model in evaluation mode.
        dialogues: What to predict.
        loss_on: Which tokens count: ``all``, or else the learnt ones.
        micro_batch_tokens: Tokens held at once; does not change the result.
        bf16: Compute in bfloat16.

    Returns:
        Sums over all target tokens.
    """
    strategy = choose_strategy(model, max((len(dialogue.ids) for dialogue in dialogues), default=0))
    task = SftTask(dialogues, loss_on, packed=strategy.packed, pad_id=pad_of(model.config))
    groups = task.cut(range(len(dialogues)), strategy.row_budget(micro_batch_tokens))
    module = CausalLM(model, bf16=bf16, head_apart=strategy.head_apart)
    with computing_with(model, strategy):
        figures = measure(task, module, [task.collate(group) for group in groups], model.device)
    tokens = int(figures["weight"])
    return LanguageSums(figures["loss"] * tokens, tokens, round(figures["token_accuracy"] * tokens))
