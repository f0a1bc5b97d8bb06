"""The header of a run: the model, the steps and how they are computed, with the arithmetic."""

from __future__ import annotations

from typing import Any

import torch

from rlhfcli.core.families.config_checks import notes_of
from rlhfcli.core.families.dropout import dropout_of
from rlhfcli.core.models.loading import parameter_counts
from rlhfcli.core.parallel.deepspeed_config import effective_stage
from rlhfcli.core.parallel.own_rank import world_size
from rlhfcli.core.training.loop import Loop
from rlhfcli.core.training.lora_coverage import lora_coverage
from rlhfcli.recipe.schema import DeepspeedSection
from rlhfcli.words import counted, percent

_OFFLOADED = {"none": "", "optimizer": ", optimizer offloaded", "all": ", optimizer and parameters offloaded"}


def header_lines(loop: Loop, module: Any, deepspeed: DeepspeedSection, strategy: str) -> list[str]:
    """Return the lines that say what a training is about to do.

    Args:
        loop: Knows the steps.
        module: The model with its head.
        deepspeed: Section of the recipe.
        strategy: How the model computes a batch, in words.
    """
    plan = loop.plan()
    total, trained = parameter_counts(module)
    precision = "bf16 computation, fp32 weights" if module.bf16 else "fp32"
    ranks = f"{world_size()} ranks × " if world_size() > 1 else ""
    stage, wanted = effective_stage(deepspeed, world_size()), deepspeed.zero_stage
    alone = "" if stage == wanted else f" (stage {wanted} has nothing to divide with one rank)"
    device = f"{ranks}{module.model.device.type} × {counted(torch.get_num_threads(), 'thread')}"
    batches = "1 micro-batch" if plan.micro_batches == 1 else f"{plan.micro_batches} micro-batches"
    head = getattr(module, "head", "")
    more = (
        f"the reward comes from {head}" if head else "", loop.task.formula(),
        dropout_of(module.model).description(), lora_coverage(module.model), *notes_of(module.model.config),
    )  # fmt: skip
    return [
        f"{type(module.model).__name__}: {total:,} parameters, {trained:,} trained ({percent(trained / total)}) · "
        f"{precision} · {device} · ZeRO stage {stage}{alone}{_OFFLOADED[deepspeed.offload]}",
        f"{plan.examples:,} examples → {plan.steps:,} steps of {plan.per_step}, in at most {batches} "
        f"{'per rank ' if ranks else ''}of {loop.settings.row_budget:,} tokens · "
        f"at most {plan.tokens:,} tokens in all · {strategy}",
        *(line for line in more if line),
    ]
