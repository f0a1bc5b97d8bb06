"""Estimate what a training needs, without training: with the real model on fake tensors, and the data if prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from rlhfcli.core.hardware import computes_bf16, memory_limit_gb, resident_memory
from rlhfcli.core.models import any_format
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
    """Stands for data that is not prepared: examples without a common beginning that fill a micro-batch.

    Args:
        tokens: Number of tokens of a micro-batch.
        longest: Number of tokens of a dialogue, or of a prompt with one of its answers.
        vocabulary: Number of token ids.
    """

    def __init__(self, tokens: int, longest: int, vocabulary: int) -> None:
        self.longest = min(longest, tokens)
        self.count = max(1, tokens // self.longest)
        self.vocabulary = vocabulary

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        """Return dialogues of which every token is learnt.

        Args:
            part: Makes no difference.
        """
        return [EncodedDialogue(self._ids(k, self.longest), [(0, self.longest)]) for k in range(self.count)]

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        """Return pairs of which prompt and answers have the same length.

        Args:
            part: Makes no difference.
        """
        third = max(1, self.longest // 3)
        prompts = (self._ids(k, third) for k in range(self.count))
        return [EncodedPreference.pair(ids, [*ids[:-1], 2], [*ids[1:], 3]) for ids in prompts]

    def _ids(self, number: int, length: int) -> list[int]:
        return [(number + 7 * place) % self.vocabulary for place in range(length)]


def dry_run(inputs: PhaseInputs, name: str, ranks: int, here: int) -> dict[str, Any]:
    """Estimate what a phase needs. No weights are loaded, nothing is written.

    Args:
        inputs: Recipe, tokenizer, run folder; the prepared data, or else ``Assumed``.
        name: ``sft`` or ``reward``.
        ranks: Number of ranks that share the work.
        here: Number of ranks that share the memory of this machine.

    Returns:
        The model, the largest micro-batch, and for each ZeRO stage the memory that it needs and whether it fits.
    """
    section, checkpointing = inputs.recipe.deepspeed, inputs.recipe.model.gradient_checkpointing
    parts = _parts(inputs, name)
    task, module = parts.tasks[0], parts.module
    steps = plan_steps(task, parts.phase, inputs.recipe.seed)
    batch = task.collate(largest_micro_batch(task, steps, parts.row_budget, ranks)[1])
    needs, available = _needs(parts, batch, checkpointing=checkpointing), room(here)
    files = Files("", *in_memory(module, recomputed=checkpointing)) if section.nvme else None
    return {
        "phase": name,
        "family": type(module.model).__name__,
        "parameters": needs.trained + needs.frozen,
        "trained": needs.trained,
        "ranks": ranks,
        "ranks_here": here,
        "gpu": needs.gpu,
        "precision": "bf16" if module.bf16 else "fp32",
        "layout": "token trees" if task.packed else "padded",
        "offload": section.offload,
        "gradient_checkpointing": checkpointing,
        "micro_batch": {"tokens": batch.layout.tokens, "examples": batch.examples, "read": len(batch.positions)},
        "prepared": not isinstance(inputs.prepared, Assumed),
        "zero_stage": section.zero_stage,
        "room": available,
        "stages": [
            _stage_entry(_at_stage(stage, needs, ranks, section, files), needs.gpu, available) for stage in STAGES
        ],
    }


def _needs(parts: Parts, batch: Any, *, checkpointing: bool) -> Needs:
    """Count parameters, and trace the activations of a batch."""
    module, strategy = parts.module, parts.strategy
    set_pad(module.model.config, None)  # else some families search the ids for it, and fake tensors have none
    activations = activation_memory.activation_bytes(
        module, parts.tasks[0], batch, strategy=strategy, checkpointing=checkpointing
    )
    total, trained = models.parameter_counts(module)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    return Needs(
        trained, total - trained, buffers, activations, module.bf16, torch.cuda.is_available(), resident_memory()
    )


def _stage_entry(memory: Memory, gpu: bool, available: float) -> dict[str, Any]:
    return vars(memory) | {"device": memory.device, "fits": needed(memory, gpu) <= available}


def _at_stage(stage: int, needs: Needs, ranks: int, section: DeepspeedSection, files: Files | None) -> Memory:
    offload = section.offload if section.offload in offloads(stage) else "none"
    effective = effective_stage(section, ranks, stage)
    return replace(estimate(needs, effective, ranks, offload, files), stage=stage)


def needed(choice: Memory, gpu: bool) -> float:
    """Return the bytes that have to fit into the memory of a rank; on a CPU offloaded tensors use it, too.

    Args:
        choice: The memory that a stage needs.
        gpu: Whether the device has memory of its own.
    """
    return choice.device if gpu else choice.device + choice.host


def room(here: int) -> float:
    """Return the bytes that a rank has: those of its GPU, or its share of free memory and of this process's.

    Args:
        here: Number of ranks that share the memory of this machine.
    """
    return memory_limit_gb() * 1e9 / (1 if torch.cuda.is_available() else here)


def _parts(inputs: PhaseInputs, name: str) -> Parts:
    """Make what a phase trains out of fake tensors."""
    recipe, section = inputs.recipe, inputs.recipe.model
    tuned = run_layout.final(inputs.folder, SFT)
    base = str(tuned) if name == "reward" and recipe.reward.init_from == "sft" and tuned.exists() else section.name
    config = any_format.load_base_config(base, trust_remote_code=section.trust_remote_code)
    dropouts = set_config_dropout(config, section.dropout)
    config.num_labels = 1
    if name == "reward":
        check_reward_form(config, base)
    kind = AutoModelForCausalLM if name == "sft" else AutoModelForSequenceClassification
    stand_in = make_stand_in(kind, config, trust_remote_code=section.trust_remote_code)
    bf16 = computes_bf16(section.dtype)
    with activation_memory.fake_tensors():
        with no_init_weights():  # some families read the numbers that they draw
            model = kind.from_config(config, dtype=torch.float32, trust_remote_code=section.trust_remote_code)
        model.tie_weights()
    recomputed, longest = section.gradient_checkpointing, recipe.data.max_length
    strategy = choose_strategy(model, longest, recomputed=recomputed, stand_in=stand_in)  # which has real numbers
    with activation_memory.fake_tensors():
        set_module_dropout(model, dropouts)
        fit_embeddings(model, inputs.tokenizer)
        if name == "sft":
            return sft_parts_of(inputs, model, strategy)
        return reward_parts_of(inputs, RewardModel(model, bf16=bf16), base, strategy)
