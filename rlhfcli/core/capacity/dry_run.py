"""What a training would need, without training: the real model without memory, and the data where it is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.initialization import no_init_weights

from rlhfcli.core.capacity import activation_memory
from rlhfcli.core.capacity.memory_model import STAGES, Memory, Needs, estimate, offloads
from rlhfcli.core.engine.nvme_offload import in_memory
from rlhfcli.core.families.config_checks import check_reward_form, set_pad
from rlhfcli.core.families.dropout import set_config_dropout, set_module_dropout
from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.hardware import computes_bf16, memory_limit_gb, peak_gb
from rlhfcli.core.models import adapters
from rlhfcli.core.models import loading as models
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing.stand_in import make_stand_in
from rlhfcli.core.packing.strategy import choose_strategy
from rlhfcli.core.parallel.deepspeed_config import Files, effective_stage
from rlhfcli.core.training.parts import Parts, PhaseInputs, reward_parts_of, sft_parts_of
from rlhfcli.core.training.step_plan import largest_micro_batch, plan_steps
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import SFT
from rlhfcli.recipe.schema import DeepspeedSection


class Assumed:
    """Stands for data that is not prepared yet: examples without a common beginning that fill a micro-batch.

    Args:
        tokens: Size of a micro-batch.
        longest: Size of a dialogue, or of a prompt with one of its answers.
        vocabulary: Number of token ids.
    """

    def __init__(self, tokens: int, longest: int, vocabulary: int) -> None:
        self.longest = min(longest, tokens)
        self.count = max(1, tokens // self.longest)
        self.vocabulary = vocabulary

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        """Every token is learnt."""
        return [EncodedDialogue(self._ids(k, self.longest), [(0, self.longest)]) for k in range(self.count)]

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        """The prompt is a third of each, as are the two answers."""
        third = max(1, self.longest // 3)
        prompts = (self._ids(k, third) for k in range(self.count))
        return [EncodedPreference.pair(ids, [*ids[:-1], 2], [*ids[1:], 3]) for ids in prompts]

    def _ids(self, number: int, length: int) -> list[int]:
        return [(number + 7 * place) % self.vocabulary for place in range(length)]


def dry_run(project: PhaseInputs, name: str, ranks: int, here: int) -> dict[str, Any]:
    """Find out what a phase needs. No weights are loaded, nothing is written.

    Args:
        project: Recipe, tokenizer, folder; its data where it is prepared, else ``Assumed``.
        name: ``sft`` or ``reward``.
        ranks: How many share the work.
        here: How many of them share the memory of this machine.

    Returns:
        The model, the largest micro-batch, and for each ZeRO stage what it needs and whether there is room for it.

    Raises:
        ModelError: The model's folder or its config cannot be used.
    """
    recipe = project.recipe
    parts = _parts(project, name)
    task, module = parts.tasks[0], parts.module
    steps = plan_steps(task, parts.phase, recipe.seed)
    batch = task.collate(largest_micro_batch(task, steps, parts.row_budget, ranks)[1])
    checkpointing = recipe.model.gradient_checkpointing
    set_pad(module.model.config, None)  # else some families look for it among the ids, which are not there
    activations = activation_memory.activation_bytes(
        module, task, batch, strategy=parts.strategy, checkpointing=checkpointing
    )
    total, trained = models.parameter_counts(module)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    needs = Needs(trained, total - trained, buffers, activations, module.bf16, torch.cuda.is_available(), resident())
    space = room(here)
    offload = recipe.deepspeed.offload
    files = Files("", *in_memory(module, recomputed=checkpointing)) if recipe.deepspeed.nvme else None
    choices = [_at_stage(stage, needs, ranks, recipe.deepspeed, files) for stage in STAGES]
    return {
        "phase": name,
        "family": type(module.model).__name__,
        "parameters": total,
        "trained": trained,
        "ranks": ranks,
        "ranks_here": here,
        "gpu": needs.gpu,
        "precision": "bf16" if module.bf16 else "fp32",
        "layout": "token trees" if task.packed else "padded",
        "offload": offload,
        "gradient_checkpointing": checkpointing,
        "micro_batch": {"tokens": batch.layout.tokens, "examples": batch.examples, "read": len(batch.positions)},
        "prepared": not isinstance(project.prepared, Assumed),
        "zero_stage": recipe.deepspeed.zero_stage,
        "room": space,
        "stages": [
            vars(choice) | {"device": choice.device, "fits": needed(choice, needs.gpu) <= space} for choice in choices
        ],
    }


def _at_stage(stage: int, needs: Needs, ranks: int, section: DeepspeedSection, files: Files | None) -> Memory:
    offload = section.offload if section.offload in offloads(stage) else "none"
    effective = effective_stage(section, ranks, stage)
    return replace(estimate(needs, effective, ranks, offload, files), stage=stage)


def needed(choice: Memory, gpu: bool) -> float:
    """Bytes that have to fit into the room of a rank: on a CPU what is offloaded comes from the same memory.

    Args:
        choice: What a stage needs.
        gpu: Whether the device has memory of its own.
    """
    return choice.device if gpu else choice.device + choice.host


def room(here: int) -> float:
    """Bytes that a rank has: its GPU's, or its share of the memory that is free or this process's already.

    Args:
        here: Ranks that share the memory of this machine.
    """
    return memory_limit_gb() * 1e9 / (1 if torch.cuda.is_available() else here)


def resident() -> int:
    """Bytes that this process has now: Python and its libraries, as long as there is no model."""
    status = Path("/proc/self/status")
    if not status.exists():
        return round(peak_gb() * 1e9)
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) * 1024


def _parts(project: PhaseInputs, name: str) -> Parts:
    """What a phase trains, without memory."""
    recipe, section = project.recipe, project.recipe.model
    tuned = run_layout.final(project.folder, SFT)
    base = str(tuned) if name == "reward" and recipe.reward.init_from == "sft" and tuned.exists() else section.name
    config = adapters.config_of(base, trust_remote_code=section.trust_remote_code)
    dropouts = set_config_dropout(config, section.dropout)
    config.num_labels = 1
    if name == "reward":
        check_reward_form(config, base)
    kind = AutoModelForCausalLM if name == "sft" else AutoModelForSequenceClassification
    stand_in = make_stand_in(kind, config, trust_remote_code=section.trust_remote_code)
    bf16 = computes_bf16(section.dtype)
    with activation_memory.fake_tensors():
        with no_init_weights():  # some families look at the numbers that they draw
            model = kind.from_config(config, dtype=torch.float32, trust_remote_code=section.trust_remote_code)
        model.tie_weights()
    recomputed, longest = section.gradient_checkpointing, recipe.data.max_length
    strategy = choose_strategy(model, longest, recomputed=recomputed, stand_in=stand_in)  # which has real numbers
    with activation_memory.fake_tensors():
        set_module_dropout(model, dropouts)
        fit_embeddings(model, project.tokenizer)
        if name == "sft":
            return sft_parts_of(project, model, strategy)
        return reward_parts_of(project, RewardModel(model, bf16=bf16), base, strategy)
