"""What a phase trains, and on what: the model with its head, LoRA, the tasks, and how the model computes a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    set_seed,
)

from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.engine.nvme_offload import OffloadFiles, parameters_in_memory
from rlhfcli.core.families.continuation import slow_reason
from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.hardware import computes_bf16
from rlhfcli.core.model_files.peft_format import TaskType
from rlhfcli.core.models import any_format, lora, tokenizers
from rlhfcli.core.models import loading as models
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing.stand_in import make_stand_in
from rlhfcli.core.packing.strategy import Strategy, choose_strategy, with_flex_attention
from rlhfcli.core.parallel.zero3 import is_partitioned, loading
from rlhfcli.core.publish.saving import Adapter
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import SFT
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import ModelSection, PhaseSection, Recipe


class Prepared(Protocol):
    """The prepared data, as ``data.preparation`` returns it."""

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        """Return the examples of phase 1.

        Args:
            part: ``train`` or ``validation``.
        """

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        """Return the examples of phase 2.

        Args:
            part: ``train`` or ``validation``.
        """


@dataclass(frozen=True)
class PhaseInputs:
    """What a command gives to a phase. The phase takes it apart: each of its parts gets the sections that it needs.

    Args:
        recipe: All settings.
        prepared: The data.
        tokenizer: The tokenizer, with pad token and template.
        folder: The run folder.
        sink: Shows the progress.
        session: Where the training begins, and when it ends early.
    """

    recipe: Recipe
    prepared: Prepared
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    sink: Sink
    session: TrainingSession = field(default_factory=TrainingSession)

    def note(self, text: str) -> None:
        """Show a note, unless it is empty.

        Args:
            text: The note.
        """
        if text:
            self.sink.note(text)


@dataclass(frozen=True)
class Parts:
    """What a phase trains, and on what.

    Args:
        phase: Section of the phase.
        module: The model with its head.
        tasks: The task on the training part, and on the validation part.
        adapter: The adapter that is saved beside the model; ``None`` without LoRA.
        strategy: How the model computes a batch.
        files: Where this process puts what ``deepspeed.nvme`` offloads.
    """

    phase: PhaseSection
    module: Any
    tasks: tuple[Any, Any]
    adapter: Adapter | None
    strategy: Strategy
    files: OffloadFiles | None = None

    @property
    def row_budget(self) -> int:
        """Maximum number of tokens of a micro-batch: that of the section, or fewer if the strategy needs it."""
        return self.strategy.row_budget(self.phase.micro_batch_tokens)


def sft_parts(inputs: PhaseInputs) -> Parts:
    """Load the base model and lay out what phase 1 trains.

    Args:
        inputs: Recipe, data and tokenizer.
    """
    recipe = inputs.recipe
    section, phase = recipe.model, recipe.sft
    files = _offload_files(inputs, AutoModelForCausalLM, section.name)
    with inputs.sink.stage("loading the model"):
        with loading(recipe.deepspeed, phase.max_grad_norm, files.used):
            model = any_format.load_language_model(
                section.name, trust_remote_code=section.trust_remote_code, dropout=section.dropout
            )
            added = fit_embeddings(model, inputs.tokenizer, recipe.seed)
        strategy = _choose_strategy(AutoModelForCausalLM, model, section, recipe.data.max_length)
    inputs.note(added)
    inputs.note("" if is_partitioned(model) else slow_reason(model))
    set_seed(recipe.seed)  # however many numbers were drawn meanwhile
    return replace(sft_parts_of(inputs, model, strategy), files=files)


def sft_parts_of(inputs: PhaseInputs, model: Any, strategy: Strategy) -> Parts:
    """Lay out what phase 1 trains, around a language model.

    Args:
        inputs: Recipe, data and tokenizer.
        model: The language model; LoRA is added in place.
        strategy: How it computes a batch.
    """
    section, phase = inputs.recipe.model, inputs.recipe.sft
    pad_id = inputs.tokenizer.pad_token_id
    train, validation = (
        SftTask(inputs.prepared.dialogues(part), phase.loss_on, packed=strategy.packed, pad_id=pad_id)
        for part in ("train", "validation")
    )
    adapter = _adapt(model, phase, section, section.name, "CAUSAL_LM")
    module = CausalLM(model, bf16=computes_bf16(section.dtype), head_apart=strategy.head_apart)
    return Parts(phase, module, (train, validation), adapter, strategy)


def reward_parts(inputs: PhaseInputs) -> Parts:
    """Load the model that the reward model starts from and lay out what phase 2 trains.

    Args:
        inputs: Recipe, data and tokenizer; with ``reward.init_from: sft`` the run folder has ``sft/final``.
    """
    recipe, phase = inputs.recipe, inputs.recipe.reward
    base = str(run_layout.final(inputs.folder, SFT)) if phase.init_from == SFT else recipe.model.name
    files = _offload_files(inputs, AutoModelForSequenceClassification, base)
    with inputs.sink.stage("loading the model"):
        with loading(recipe.deepspeed, phase.max_grad_norm, files.used):
            module = any_format.load_reward_model_to_train(recipe.model, base, recipe.seed)
            added = fit_embeddings(module.model, inputs.tokenizer, recipe.seed)
        auto_class = AutoModelForSequenceClassification
        strategy = _choose_strategy(auto_class, module.model, recipe.model, recipe.data.max_length)
    inputs.note(added)
    if module.head != "a new head":
        trusted = recipe.model.trust_remote_code
        inputs.note(tokenizers.template_change(base, inputs.tokenizer, recipe.data.template, trust_remote_code=trusted))
    set_seed(recipe.seed)
    return replace(reward_parts_of(inputs, module, base, strategy), files=files)


def reward_parts_of(inputs: PhaseInputs, module: RewardModel, base: str, strategy: Strategy) -> Parts:
    """Lay out what phase 2 trains, around a reward model.

    Args:
        inputs: Recipe, data and tokenizer.
        module: The reward model; LoRA is added in place.
        base: Hub name or folder that its model was loaded from.
        strategy: How it computes a batch.
    """
    phase, pad_id = inputs.recipe.reward, inputs.tokenizer.pad_token_id
    train, validation = (
        RewardTask(inputs.prepared.pairs(part), phase, packed=strategy.packed, pad_id=pad_id)
        for part in ("train", "validation")
    )
    adapter = _adapt(module.model, phase, inputs.recipe.model, base, "SEQ_CLS")
    module.score.requires_grad_(True)
    return Parts(phase, module, (train, validation), adapter, strategy)


def _choose_strategy(auto_class: Any, model: Any, section: ModelSection, max_length: int) -> Strategy:
    """Choose the strategy for a model, or by a stand-in where the model is partitioned."""
    stand_in = None
    if is_partitioned(model):
        stand_in = make_stand_in(auto_class, model.config, trust_remote_code=section.trust_remote_code)
    strategy = choose_strategy(model, max_length, recomputed=section.gradient_checkpointing, stand_in=stand_in)
    return with_flex_attention(strategy, stand_in or model, bf16=computes_bf16(section.dtype))


def _offload_files(inputs: PhaseInputs, auto_class: Any, base: str) -> OffloadFiles:
    in_memory = partial(parameters_in_memory, auto_class, base, inputs.tokenizer, inputs.recipe.model)
    return OffloadFiles(inputs.recipe.deepspeed, in_memory, inputs.sink)


def _adapt(model: Any, phase: PhaseSection, section: ModelSection, base: str, task_type: TaskType) -> Adapter | None:
    """Add LoRA to a model if the phase has it; else train all of its parameters."""
    if phase.lora is None:
        model.requires_grad_(True)
        return None
    any_format.refuse_lora(section, base)
    lora.inject(model, phase.lora)
    return Adapter(phase.lora, models.resolve(base), task_type)
