"""Measure a task over many batches: sums first, one division at the end, so that the batching does not matter."""

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
        tokens: Number of target tokens.
        correct: Number of target tokens that had the highest probability.
    """

    nll: float
    tokens: int
    correct: int


class CutShort(Exception):
    """A measurement was ended before its last batch; its sums so far are of no use."""


@torch.no_grad()
def sums(
    task: Task,
    forward: Forward,
    batches: RankBatches,
    device: torch.device,
    stop_requested: Callable[[], bool] | None = None,
) -> tuple[dict[str, float], int]:
    """Return the sums of a task over some batches.

    Args:
        task: The task to measure.
        forward: The model, in evaluation mode.
        batches: The batches, on the CPU; padding batches are computed, too, but not counted.
        device: The device of the model.
        stop_requested: Asked before every batch whether to leave out the rest; has to agree on all ranks.

    Returns:
        The arguments of ``Task.summary``: sums by name, and the weight.

    Raises:
        CutShort: A stop was requested.
    """
    totals: dict[str, float] = {}
    for number, batch in enumerate([*batches.batches, *batches.padding_batches]):
        if stop_requested is not None and stop_requested():
            raise CutShort
        for name, value in task.step(forward, batch.to(device)).items():
            totals[name] = totals.get(name, 0.0) + (float(value) if number < len(batches.batches) else 0.0)
    return totals, sum(task.weight(batch) for batch in batches.batches)


def measure(task: Task, forward: Forward, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Return the figures of a task over some batches, exactly weighted.

    Args:
        task: The task to measure.
        forward: The model, in evaluation mode.
        batches: The batches, on the CPU.
        device: The device of the model.

    Returns:
        The figures of ``Task.summary``, and the ``weight`` that they are averaged over.
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
    """Measure how well a language model predicts dialogues.

    Args:
        model: A transformers causal language model in evaluation mode.
        dialogues: The dialogues, as token ids.
        loss_on: Which tokens count: ``all``, or else only those that SFT learns.
        micro_batch_tokens: Maximum number of tokens of a batch; does not change the result.
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
