"""The two phases from start to end: load, adapt, train with the one loop, save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    set_seed,
)

from rlhfcli.core.checkpoints.manager import Checkpoints, TrainingSession
from rlhfcli.core.engine.engine import Engine
from rlhfcli.core.engine.nvme_offload import OffloadFiles, parameters_in_memory
from rlhfcli.core.families.config_checks import notes_of
from rlhfcli.core.families.continuation import slow_reason
from rlhfcli.core.families.dropout import dropout_of
from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.hardware import computes_bf16
from rlhfcli.core.models import adapters, lora, tokenizers
from rlhfcli.core.models import loading as models
from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.models.reward_model import RewardModel, as_reward_model
from rlhfcli.core.packing.stand_in import make_stand_in
from rlhfcli.core.packing.strategy import Strategy, choose_strategy, computing_with, with_flex_attention
from rlhfcli.core.parallel.deepspeed_config import in_effect
from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.core.parallel.zero3 import is_partitioned, loading
from rlhfcli.core.publish import model_card
from rlhfcli.core.publish.saving import Adapter, rehearse_saving, save_model
from rlhfcli.core.result import Result
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.training.loop import Loop
from rlhfcli.core.training.lora_coverage import lora_coverage
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.templates.scored_template import ending_at_score
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import REWARD, SFT
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import ModelSection, PhaseSection, Recipe
from rlhfcli.words import percent

_OFFLOADED = {"none": "", "optimizer": ", optimizer offloaded", "all": ", optimizer and parameters offloaded"}


class Prepared(Protocol):
    """The prepared data, as ``data.prepare`` gives it."""

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        """Rows of phase 1."""

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        """Rows of phase 2."""


@dataclass(frozen=True)
class PhaseInputs:
    """What every phase needs.

    Args:
        recipe: All settings.
        prepared: The data.
        tokenizer: With pad token and template.
        folder: The run's folder.
        sink: Sees the progress.
        sitting: Where a training begins, and when it ends early.
    """

    recipe: Recipe
    prepared: Prepared
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    sink: Sink
    session: TrainingSession = field(default_factory=TrainingSession)


@dataclass(frozen=True)
class Parts:
    """What a phase trains, and on what.

    Args:
        phase: The phase's section.
        module: The model with its head.
        tasks: Training and validation.
        adapter: What is written beside the model where LoRA is used.
        strategy: How the model computes a batch.
        files: Where ``deepspeed.nvme`` has this process put what it offloads.
    """

    phase: PhaseSection
    module: Any
    tasks: tuple[Any, Any]
    adapter: Adapter | None
    strategy: Strategy
    files: OffloadFiles | None = None

    @property
    def row_budget(self) -> int:
        """Tokens that a micro-batch may have: as the section says, or fewer where the strategy needs that."""
        return self.strategy.row_budget(self.phase.micro_batch_tokens)


def train_sft(project: PhaseInputs) -> Result:
    """Phase 1. Writes ``sft/metrics.jsonl`` and ``sft/final``.

    Args:
        project: Recipe, data, tokenizer, folder.

    Returns:
        What came out of training.
    """
    parts = sft_parts(project)
    result, checkpoints = _train(project, parts)
    if rank() == 0:
        with project.sink.stage("saving sft/final"):
            folder, card = run_layout.final(project.folder, SFT), model_card.sft_card(project.recipe, result)
            save_model(parts.module.model, project.tokenizer, folder, parts.adapter, card)
    checkpoints.remove()
    return result


def sft_parts(project: PhaseInputs) -> Parts:
    """Load what phase 1 needs."""
    recipe = project.recipe
    section, phase = recipe.model, recipe.sft
    files = _files(project, AutoModelForCausalLM, section.name)
    with project.sink.stage("loading the model"):
        with loading(recipe.deepspeed, phase.max_grad_norm, files.used):
            model = adapters.language_model(
                section.name, trust_remote_code=section.trust_remote_code, dropout=section.dropout
            )
            added = fit_embeddings(model, project.tokenizer, recipe.seed)
        strategy = _strategy_to_train(AutoModelForCausalLM, model, recipe)
    _note(project, added)
    _note(project, "" if is_partitioned(model) else slow_reason(model))
    set_seed(recipe.seed)  # however many numbers were drawn meanwhile
    return replace(sft_parts_of(project, model, strategy), files=files)


def sft_parts_of(project: PhaseInputs, model: Any, strategy: Strategy) -> Parts:
    """What phase 1 trains, around a language model that computes in a certain way."""
    recipe, phase = project.recipe, project.recipe.sft
    pad_id = project.tokenizer.pad_token_id
    train, validation = (
        SftTask(project.prepared.dialogues(part), phase.loss_on, packed=strategy.packed, pad_id=pad_id)
        for part in ("train", "validation")
    )
    adapter = _adapt(model, phase, recipe.model, recipe.model.name, "CAUSAL_LM")
    module = CausalLM(model, bf16=computes_bf16(recipe.model.dtype), head_apart=strategy.head_apart)
    return Parts(phase, module, (train, validation), adapter, strategy)


def train_reward(project: PhaseInputs) -> Result:
    """Phase 2. Writes ``reward/metrics.jsonl`` and ``reward/final``.

    Args:
        project: Recipe, data, tokenizer, folder; with ``init_from: sft`` the folder has ``sft/final``.

    Returns:
        What came out of training.
    """
    parts = reward_parts(project)
    module, (result, checkpoints) = parts.module, _train(project, parts)
    if rank() == 0:
        as_reward_model(module.config, project.recipe.reward.pooling, _rewards(result))
        with project.sink.stage("saving reward/final"):
            folder, card = run_layout.final(project.folder, REWARD), model_card.reward_card(project.recipe, result)
            save_model(module.model, ending_at_score(project.tokenizer), folder, parts.adapter, card)
    checkpoints.remove()
    return result


def reward_parts(project: PhaseInputs) -> Parts:
    """Load what phase 2 needs."""
    recipe, phase = project.recipe, project.recipe.reward
    base = str(run_layout.final(project.folder, SFT)) if phase.init_from == SFT else recipe.model.name
    files = _files(project, AutoModelForSequenceClassification, base)
    with project.sink.stage("loading the model"):
        with loading(recipe.deepspeed, phase.max_grad_norm, files.used):
            module = adapters.reward_model_to_train(recipe.model, base, recipe.seed)
            added = fit_embeddings(module.model, project.tokenizer, recipe.seed)
        strategy = _strategy_to_train(AutoModelForSequenceClassification, module.model, recipe)
    _note(project, added)
    if module.head != "a new head":
        trusted = recipe.model.trust_remote_code
        change = tokenizers.template_change(base, project.tokenizer, recipe.data.template, trust_remote_code=trusted)
        _note(project, change)
    set_seed(recipe.seed)
    return replace(reward_parts_of(project, module, base, strategy), files=files)


def reward_parts_of(project: PhaseInputs, module: RewardModel, base: str, strategy: Strategy) -> Parts:
    """What phase 2 trains, around a reward model that comes from ``base`` and computes in a certain way."""
    phase = project.recipe.reward
    train, validation = (
        RewardTask(project.prepared.pairs(part), phase, packed=strategy.packed, pad_id=project.tokenizer.pad_token_id)
        for part in ("train", "validation")
    )
    adapter = _adapt(module.model, phase, project.recipe.model, base, "SEQ_CLS")
    module.score.requires_grad_(True)
    return Parts(phase, module, (train, validation), adapter, strategy)


def _note(project: PhaseInputs, text: str) -> None:
    if text:
        project.sink.note(text)


def _strategy_to_train(auto_class: Any, model: Any, recipe: Recipe) -> Strategy:
    """Choose the strategy for a model, or by a stand-in where the model is partitioned."""
    section, stand_in = recipe.model, None
    if is_partitioned(model):
        stand_in = make_stand_in(auto_class, model.config, trust_remote_code=section.trust_remote_code)
    strategy = choose_strategy(model, recipe.data.max_length, stand_in=stand_in)
    return with_flex_attention(strategy, stand_in or model, bf16=computes_bf16(section.dtype))


def _files(project: PhaseInputs, kind: Any, base: str) -> OffloadFiles:
    in_memory = partial(parameters_in_memory, kind, base, project.tokenizer, project.recipe.model)
    return OffloadFiles(project.recipe.deepspeed, in_memory, project.sink)


def _adapt(model: Any, phase: PhaseSection, section: ModelSection, base: str, task_type: str) -> Adapter | None:
    if phase.lora is None:
        model.requires_grad_(True)
        return None
    adapters.refuse_lora(section, base)
    lora.inject(model, phase.lora)
    return Adapter(phase.lora, models.resolve(base), task_type)


def _train(project: PhaseInputs, parts: Parts) -> tuple[Result, Checkpoints]:
    checkpoints = Checkpoints(project.folder, project.recipe, parts.tasks[0], project.session, project.sink)
    checkpoints.load_latest(parts.module)
    with started(project, parts) as (loop, engine):
        checkpoints.restore(engine)
        result = loop.run(engine, checkpoints)
        parts.module.eval()
    if rank() == 0:  # which has the whole model now, and saves it
        taken = checkpoints.load_best(parts.module, result.steps, result.evaluation)
        result.evaluation, result.best = taken
    return result, checkpoints


@contextmanager
def started(project: PhaseInputs, parts: Parts) -> Iterator[tuple[Loop, Engine]]:
    """Everything of a training but its steps: the batches, the rehearsal, DeepSpeed.

    Args:
        project: Recipe, folder, and who sees the progress.
        parts: What is trained, and on what.

    Yields:
        The loop, and the engine that it drives.
    """
    recipe, sink, module = project.recipe, project.sink, parts.module
    with ExitStack() as stack:
        files = stack.enter_context(parts.files).used if parts.files else None
        strategy, recomputing = parts.strategy, recipe.model.gradient_checkpointing
        stack.enter_context(computing_with(module.model, strategy.without_pruning() if recomputing else strategy))
        if recomputing:
            stack.enter_context(models.recomputed_activations(module.model))
        with sink.stage("laying out the batches"):
            folder = run_layout.phase_folder(project.folder, parts.tasks[0].name)
            loop = Loop(recipe, parts.phase, parts.tasks, parts.row_budget, folder, sink)
        for line in header(loop, module, recipe, strategy.description):
            sink.note(line)
        if rank() == 0:
            rehearse_saving(module.model, project.tokenizer)
        module.train()
        pieces = is_partitioned(module)
        if not pieces:
            with sink.stage("rehearsing the largest batch"), loop.in_memory("rehearsing the largest batch"):
                loop.rehearse(module, module.model.device)
        with sink.stage("starting DeepSpeed"), loop.in_memory("starting DeepSpeed"):
            engine = stack.enter_context(Engine(module, parts.phase, len(loop.steps), recipe.deepspeed, files))
        if pieces:
            with sink.stage("rehearsing the largest batch"), loop.in_memory("rehearsing the largest batch"):
                loop.rehearse_partitioned(engine)
        if rank() > 0:
            torch.manual_seed(recipe.seed + rank())  # so that dropout differs among the ranks
        yield loop, engine


def header(loop: Loop, module: Any, recipe: Recipe, how: str) -> list[str]:
    """What the run is about to do, with the arithmetic; ``how`` says how the model computes a batch."""
    plan = loop.schedule()
    total, trained = models.parameter_counts(module)
    precision = "bf16 computation, fp32 weights" if module.bf16 else "fp32"
    family = type(module.model).__name__
    ranks = f"{world_size()} ranks × " if world_size() > 1 else ""
    stage, wanted = in_effect(recipe.deepspeed, world_size()).zero_stage, recipe.deepspeed.zero_stage
    alone = "" if stage == wanted else f" (of stage {wanted} one rank has nothing to divide)"
    device = f"{ranks}{module.model.device.type} × {torch.get_num_threads()} threads"
    head = getattr(module, "head", "")
    more = (
        f"the reward comes from {head}" if head else "", loop.task.formula(),
        dropout_of(module.model).description(), lora_coverage(module.model), *notes_of(module.model.config),
    )  # fmt: skip
    return [
        f"{family}: {total:,} parameters, {trained:,} trained ({percent(trained / total)}) · {precision} · "
        f"{device} · ZeRO stage {stage}{alone}{_OFFLOADED[recipe.deepspeed.offload]}",
        f"{plan.examples:,} examples → {plan.steps:,} steps of {plan.per_step}, in at most {plan.micro_batches} "
        f"micro-batches {'per rank ' if ranks else ''}of {loop.row_budget:,} tokens · "
        f"at most {plan.tokens:,} tokens in all · {how}",
        *(line for line in more if line),
    ]


def _rewards(result: Result) -> tuple[float, float]:
    """Mean and standard deviation of the rewards of the validation answers, as the evaluation found them."""
    found = result.history[-1] | result.evaluation  # a best step of an older version lacks the deviation
    return (found["eval_chosen_mean"] + found["eval_rejected_mean"]) / 2, found["eval_reward_std"]
