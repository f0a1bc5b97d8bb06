"""One phase, or a whole run: every check first, then the training, then its record in ``run.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli import launch
from rlhfcli.api import measuring
from rlhfcli.api.options import TrainingOptions
from rlhfcli.api.results import PhaseResult, RunResult
from rlhfcli.api.workspace import Workspace
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import PHASES, REWARD, SFT, Phase

if TYPE_CHECKING:
    from rlhfcli.core.training.parts import PhaseInputs

_WHOLE_RUN = "run"


def train_phase(workspace: Workspace, phase: Phase, options: TrainingOptions) -> PhaseResult:
    """Train a phase; with ``resume`` a phase that is finished is left as it is.

    Args:
        workspace: The opened run.
        phase: ``sft`` or ``reward``.
        options: Whether to resume or overwrite, and when to stop.

    Returns:
        The trained model and how its training went.
    """
    with workspace.locked():
        if phase == REWARD:
            workspace.check_start_of_reward()
        if options.resume and _is_finished(workspace, phase, options):
            return _earlier_result(workspace, phase)
        workspace.claim(phase, overwrite=options.overwrite, resume=options.resume)
        return _train(workspace, _phase_inputs(workspace, phase, options), phase)


def train_run(workspace: Workspace, options: TrainingOptions) -> RunResult:
    """Prepare the data, train both phases and measure them; a phase that is finished is left as it is.

    Args:
        workspace: The opened run.
        options: Whether to resume or overwrite, and when to stop.

    Returns:
        Both phases; on the first rank also the evaluation.
    """
    with workspace.locked():
        if options.overwrite and launch.first():
            workspace.run.refuse_other_models()  # before anything is written
        workspace.claim("data", overwrite=options.overwrite)
        inputs = _phase_inputs(workspace, _WHOLE_RUN, options)
        _check_all_rows(workspace, inputs)
        results = {}
        for phase in PHASES:
            if _is_finished(workspace, phase, options):
                results[phase] = _earlier_result(workspace, phase)
            else:
                workspace.claim(phase, overwrite=options.overwrite, resume=options.resume)
                results[phase] = _train(workspace, inputs, phase)
        evaluation = measuring.evaluate(workspace) if launch.continue_alone() else None
    return RunResult(results[SFT], results[REWARD], evaluation)


def _is_finished(workspace: Workspace, phase: Phase, options: TrainingOptions) -> bool:
    """Return whether a phase is finished and not to be repeated; say so.

    Raises:
        OutputError: It was trained with other settings than this recipe's.
    """
    run = workspace.run
    if options.overwrite or launch.of_first(lambda: not run.finished(phase) or bool(run.checkpoints(phase))):
        return False
    run.refuse_other_settings(phase)
    workspace.sink.note(f"{phase}: already done, nothing to do (--overwrite repeats it)")
    return True


def _phase_inputs(workspace: Workspace, verb: str, options: TrainingOptions) -> PhaseInputs:
    """Load, check and prepare everything that a phase, or the whole run, needs before its model."""
    from rlhfcli.runs.commands import command_for

    recipe, run = workspace.recipe, workspace.run
    if launch.first():
        with run.removed_on_failure():
            from rlhfcli.core.training import trackers

            trackers.check(recipe.logging)
    tokenizer = workspace.tokenizer
    with run.removed_on_failure():
        with workspace.sink.stage("importing the core"):
            from rlhfcli.core.families.config_checks import check_reward_form
            from rlhfcli.core.models.loading import language_config, peek_config
            from rlhfcli.core.parallel.process_group import check_accelerator
            from rlhfcli.core.training.parts import PhaseInputs
        check_accelerator()
        section = recipe.model  # looked at before the data is prepared, which may take long
        if verb != REWARD:
            language_config(section.name, trust_remote_code=section.trust_remote_code)
        config = peek_config(section.name, trust_remote_code=section.trust_remote_code)
        if verb != SFT and config is not None:
            check_reward_form(config, section.name)
    prepared = workspace.prepare(keep=not options.overwrite)
    launch.log_into(run_layout.logs(run.path))
    resume_command = command_for(recipe, f"rlhf {verb} --resume{workspace.launch_options}", later=True)
    session = options.session(str(prepared.manifest["fingerprint"]), resume_command)
    return PhaseInputs(recipe, prepared, tokenizer, run.path, workspace.sink, session)


def _check_all_rows(workspace: Workspace, inputs: PhaseInputs) -> None:
    """Raise now what would end a whole run after its training: a phase without rows, or nothing to measure with.

    Raises:
        DataError: A phase has no rows, or ``eval.prompts`` or ``eval.pairs`` cannot be used.
    """
    from rlhfcli.data.sources.evaluation_rows import read_pairs, read_prompts

    inputs.prepared.dialogues("train")
    inputs.prepared.pairs("train")
    for file in workspace.recipe.eval.prompt_sets.values():
        read_prompts(file, workspace.recipe.seed)
    for file in workspace.recipe.eval.pair_sets.values():
        read_pairs(file, workspace.recipe.seed)


def _train(workspace: Workspace, inputs: PhaseInputs, phase: Phase) -> PhaseResult:
    from rlhfcli.core.training import phases

    run, sink = workspace.run, workspace.sink
    if phase == REWARD:
        workspace.check_start_of_reward()
    if not launch.is_rank() and (gpus := launch.usable_gpus()) > 1:
        sink.note(f"training on 1 of {gpus} GPUs; --gpus all takes them all")
    started = time.perf_counter()
    result = (phases.train_sft if phase == SFT else phases.train_reward)(inputs)
    figures = {
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(max(time.perf_counter() - started, result.seconds), 1),  # earlier sessions count
    }
    if launch.first():
        run.record_done({phase: figures | result.evaluation | ({"best": result.best} if result.best else {})})
    launch.together()
    trained = PhaseResult(
        phase,
        run_layout.final(run.path, phase),
        result.steps,
        result.tokens,
        result.seconds,
        result.evaluation,
        result.best,
        result.history,
    )
    sink.note(trained.summary())
    return trained


def _earlier_result(workspace: Workspace, phase: Phase) -> PhaseResult:
    """Return what ``run.json`` and ``metrics.jsonl`` say about a phase that is finished."""
    figures = (workspace.run.read_record().get("parts") or {}).get(phase) or {}
    return PhaseResult(
        phase,
        run_layout.final(workspace.run.path, phase),
        int(figures.get("steps") or 0),
        int(figures.get("tokens") or 0),
        float(figures.get("seconds") or 0.0),
        {key: value for key, value in figures.items() if key.startswith("eval_")},
        figures.get("best") or {},
        list(_lines(run_layout.metrics(workspace.run.path, phase))),
        trained=False,
    )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ``metrics.jsonl`` that can be read; a process may have been killed while it wrote one."""
    with suppress(OSError):
        for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                if isinstance(line := json.loads(text), dict):
                    yield line
