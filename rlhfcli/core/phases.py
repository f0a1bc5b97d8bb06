"""The two phases from start to end: load, adapt, train with the one loop, save."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase, set_seed

from rlhfcli.core import cards, layout, lora
from rlhfcli.core import model as models
from rlhfcli.core.engine import Engine
from rlhfcli.core.export import Adapter, as_reward_model, save_model
from rlhfcli.core.loop import Loop, Result
from rlhfcli.core.reward_model import RewardModel, new_reward_model
from rlhfcli.core.tasks import CausalLM, RewardTask, SftTask
from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import Phase, Recipe


class Prepared(Protocol):
    """The prepared data, as ``data.prepare`` gives it."""

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        """Rows of phase 1."""

    def pairs(self, part: str) -> Sequence[EncodedPair]:
        """Rows of phase 2."""


@dataclass(frozen=True)
class Project:
    """What every phase needs.

    Args:
        recipe: All settings.
        prepared: The data.
        tokenizer: With pad token and template.
        folder: The run's folder.
        sink: Sees the progress.
    """

    recipe: Recipe
    prepared: Prepared
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    sink: Sink


def train_sft(project: Project) -> Result:
    """Phase 1. Writes ``sft/metrics.jsonl`` and ``sft/final``.

    Args:
        project: Recipe, data, tokenizer, folder.

    Returns:
        What came out of training.
    """
    recipe, phase = project.recipe, project.recipe.sft
    set_seed(recipe.seed)
    with project.sink.stage("loading the model"):
        model = models.load_causal_lm(
            recipe.model.name, trust_remote_code=recipe.model.trust_remote_code, dropout=recipe.model.dropout
        )
        models.fit_embeddings(model, project.tokenizer)
        packed = layout.packs_exactly(model)
    tasks = [
        SftTask(
            project.prepared.dialogues(part),
            phase.loss_on,
            packed=packed,
            pad_id=project.tokenizer.pad_token_id,
        )
        for part in ("train", "validation")
    ]
    adapter = _adapt(model, phase, recipe.model.name, "CAUSAL_LM")
    module = CausalLM(model, bf16=models.computes_bf16(recipe.model.dtype))
    result = _train(project, phase, module, tasks)
    with project.sink.stage("saving sft/final"):
        save_model(
            model,
            project.tokenizer,
            project.folder / "sft" / "final",
            adapter,
            cards.sft_card(recipe, result),
        )
    return result


def train_reward(project: Project) -> Result:
    """Phase 2. Writes ``reward/metrics.jsonl`` and ``reward/final``.

    Args:
        project: Recipe, data, tokenizer, folder; with ``init_from: sft`` the folder has ``sft/final``.

    Returns:
        What came out of training.
    """
    recipe, phase = project.recipe, project.recipe.reward
    set_seed(recipe.seed)
    base = str(project.folder / "sft" / "final") if phase.init_from == "sft" else recipe.model.name
    with project.sink.stage("loading the model"):
        module = new_reward_model(recipe.model, base)
        models.fit_embeddings(module.model, project.tokenizer)
        packed = layout.packs_exactly(module.model)
    tasks = [
        RewardTask(project.prepared.pairs(part), phase, packed=packed, pad_id=project.tokenizer.pad_token_id)
        for part in ("train", "validation")
    ]
    adapter = _adapt(module.model, phase, base, "SEQ_CLS")
    module.score.requires_grad_(True)
    result = _train(project, phase, module, tasks)
    as_reward_model(module.config, phase.pooling, _reward_statistics(module, project.prepared.pairs("validation")))
    with project.sink.stage("saving reward/final"):
        folder = project.folder / "reward" / "final"
        save_model(module.model, project.tokenizer, folder, adapter, cards.reward_card(recipe, result))
    return result


def _adapt(model: Any, phase: Phase, base: str, task_type: str) -> Adapter | None:
    if phase.lora is None:
        model.requires_grad_(True)
        return None
    lora.inject(model, phase.lora)
    return Adapter(phase.lora, models.resolve(base), task_type)


def _train(project: Project, phase: Phase, module: Any, tasks: list[Any]) -> Result:
    recipe, sink = project.recipe, project.sink
    model = module.model
    with ExitStack() as stack:
        if tasks[0].packed:
            stack.enter_context(layout.attention(model, layout.PACKED))
        if recipe.model.gradient_checkpointing:
            stack.enter_context(models.recomputed_activations(model))
        with sink.stage("laying out the batches"):
            loop = Loop(recipe, phase, tasks[0], tasks[1], project.folder / tasks[0].name, sink)
        for line in header(loop, module, recipe):
            sink.note(line)
        module.train()
        with sink.stage("rehearsing the largest batch"):
            loop.rehearse(module, model.device)
        with sink.stage("starting DeepSpeed"):
            engine = Engine(module, phase, len(loop.steps), recipe.deepspeed.zero_stage)
        stack.callback(engine.close)
        result = loop.run(engine)
        module.eval()
        return result


def header(loop: Loop, module: Any, recipe: Recipe) -> list[str]:
    """What the run is about to do, with the arithmetic."""
    plan = loop.schedule()
    total, trained = models.parameter_counts(module)
    precision = "bf16 computation, fp32 weights" if module.bf16 else "fp32"
    family = type(module.model).__name__
    how = "packed, no padding" if loop.packed else f"padded: {family} cannot compute packed rows"
    return [
        f"{family}: {total:,} parameters, {trained:,} trained ({100 * trained / total:.1f} %) · {precision} · "
        f"{module.model.device.type} × {torch.get_num_threads()} threads · ZeRO stage {recipe.deepspeed.zero_stage}",
        f"{plan.examples:,} examples → {plan.steps:,} steps of {plan.per_step}, in at most {plan.micro_batches} "
        f"micro-batches of {loop.phase.micro_batch_tokens:,} tokens · {plan.tokens:,} tokens in all · {how}",
    ]


@torch.no_grad()
def _reward_statistics(module: RewardModel, pairs: Sequence[EncodedPair]) -> tuple[float, float]:
    """Mean and standard deviation of the rewards of all validation answers."""
    answers = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    rewards = module.rewards([prompt + answer for prompt, answer in answers], [len(prompt) for prompt, _ in answers])
    return float(rewards.mean()), float(rewards.std())
