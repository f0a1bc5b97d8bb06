"""The two phases from start to end: load, adapt, train with the one loop, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from rlhfcli.core.checkpoints.manager import Checkpoints
from rlhfcli.core.engine.engine import Engine
from rlhfcli.core.models.loading import recomputed_activations
from rlhfcli.core.models.reward_model import as_reward_model
from rlhfcli.core.packing.strategy import computing_with
from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.core.parallel.zero3 import is_partitioned
from rlhfcli.core.publish import model_card
from rlhfcli.core.publish.saving import rehearse_saving, save_model
from rlhfcli.core.result import Result
from rlhfcli.core.training.header import header_lines
from rlhfcli.core.training.loop import Loop, LoopSettings
from rlhfcli.core.training.metrics_log import Journal
from rlhfcli.core.training.parts import Parts, PhaseInputs, reward_parts, sft_parts
from rlhfcli.core.training.trackers import make_trackers
from rlhfcli.data.templates.scored_template import ending_at_score
from rlhfcli.files import run_layout
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import REWARD, SFT
from rlhfcli.runs import resumable


def train_sft(inputs: PhaseInputs) -> Result:
    """Train phase 1 and write ``sft/metrics.jsonl`` and ``sft/final``.

    Args:
        inputs: Recipe, data, tokenizer, run folder.

    Returns:
        The result of the training.
    """
    parts = sft_parts(inputs)
    result, checkpoints = _train(inputs, parts)
    if rank() == 0:
        with inputs.sink.stage("saving sft/final"):
            folder, card = run_layout.final(inputs.folder, SFT), model_card.sft_card(inputs.recipe, result)
            save_model(parts.module.model, inputs.tokenizer, folder, parts.adapter, card)
    checkpoints.remove()
    return result


def train_reward(inputs: PhaseInputs) -> Result:
    """Train phase 2 and write ``reward/metrics.jsonl`` and ``reward/final``.

    Args:
        inputs: Recipe, data, tokenizer, run folder; with ``reward.init_from: sft`` the run folder has ``sft/final``.

    Returns:
        The result of the training.
    """
    parts = reward_parts(inputs)
    module, (result, checkpoints) = parts.module, _train(inputs, parts)
    if rank() == 0:
        as_reward_model(module.config, inputs.recipe.reward.pooling, _reward_statistics(result))
        with inputs.sink.stage("saving reward/final"):
            folder, card = run_layout.final(inputs.folder, REWARD), model_card.reward_card(inputs.recipe, result)
            save_model(module.model, ending_at_score(inputs.tokenizer), folder, parts.adapter, card)
    checkpoints.remove()
    return result


def _train(inputs: PhaseInputs, parts: Parts) -> tuple[Result, Checkpoints]:
    recipe, task = inputs.recipe, parts.tasks[0]
    checkpoints = Checkpoints(
        run_layout.checkpoints(inputs.folder, task.name),
        recipe.checkpoint,
        resumable.settings(recipe, task.name),
        task,
        inputs.session,
        inputs.sink,
    )
    checkpoints.load_latest(parts.module)
    with started(inputs, parts) as (loop, engine):
        checkpoints.restore(engine)
        result = loop.run(engine, checkpoints)
        parts.module.eval()
    if rank() == 0:  # which has the whole model now, and saves it
        chosen = checkpoints.load_best(parts.module, result.steps, result.evaluation)
        result.evaluation, result.best = chosen
    return result, checkpoints


@contextmanager
def started(inputs: PhaseInputs, parts: Parts) -> Iterator[tuple[Loop, Engine]]:
    """Do everything of a training that comes before its steps: lay out batches, rehearse, start DeepSpeed.

    Args:
        inputs: Recipe, run folder and sink.
        parts: What is trained, and on what.

    Yields:
        The loop, and the engine that it drives.
    """
    recipe, sink, module = inputs.recipe, inputs.sink, parts.module
    with ExitStack() as stack:
        files = stack.enter_context(parts.files).used if parts.files else None
        stack.enter_context(computing_with(module.model, parts.strategy))
        if recipe.model.gradient_checkpointing:
            stack.enter_context(recomputed_activations(module.model))
        with sink.stage("laying out the batches"):
            loop = _loop(inputs, parts)
        for line in header_lines(loop, module, recipe.deepspeed, parts.strategy.description):
            sink.note(line)
        if rank() == 0:
            rehearse_saving(module.model, inputs.tokenizer)
        module.train()
        partitioned, rehearsing = is_partitioned(module), "rehearsing the largest batch"
        if not partitioned:
            with sink.stage(rehearsing), loop.explaining_memory(rehearsing):
                loop.rehearse(module, module.model.device)
        with sink.stage("starting DeepSpeed"), loop.explaining_memory("starting DeepSpeed"):
            engine = stack.enter_context(Engine(module, parts.phase, len(loop.steps), recipe.deepspeed, files))
        if partitioned:
            with sink.stage(rehearsing), loop.explaining_memory(rehearsing):
                loop.rehearse_partitioned(engine)
        if rank() > 0:
            torch.manual_seed(recipe.seed + rank())  # so that dropout differs among the ranks
        yield loop, engine


def _loop(inputs: PhaseInputs, parts: Parts) -> Loop:
    recipe, folder = inputs.recipe, run_layout.phase_folder(inputs.folder, parts.tasks[0].name)
    settings = LoopSettings(recipe.seed, parts.phase, recipe.eval, recipe.logging, recipe.checkpoint, parts.row_budget)
    config = without_secrets(recipe.model_dump(mode="json"))
    trackers = make_trackers(recipe.logging, folder, Path(recipe.output_dir).name, config)
    return Loop(settings, parts.tasks, Journal(folder, trackers), inputs.sink)


def _reward_statistics(result: Result) -> tuple[float, float]:
    """Return mean and standard deviation of the rewards of the validation answers."""
    found = result.history[-1] | result.evaluation  # a best step of an older version lacks the deviation
    return (found["eval_chosen_mean"] + found["eval_rejected_mean"]) / 2, found["eval_reward_std"]
