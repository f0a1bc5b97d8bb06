"""Speed and memory of a training, without training anything that stays."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhfcli.api.workspace import Workspace
from rlhfcli.errors import UserError
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import SFT, Phase


def bench(workspace: Workspace, phases: Sequence[Phase], steps: int, *, find_size: bool) -> list[dict[str, Any]]:
    """Time training steps; files that this needs go into a temporary folder.

    Args:
        workspace: The opened run.
        phases: Those to measure.
        steps: Steps that count; two more warm up.
        find_size: Also find the largest ``micro_batch_tokens`` that fits into memory.

    Returns:
        See ``bench_phase``; one entry for each phase.

    Raises:
        UserError: There are no steps to measure.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}")
    recipe, sink, tokenizer = workspace.recipe, workspace.sink, workspace.tokenizer
    with sink.stage("importing the core"):
        from rlhfcli.core.capacity.bench import bench_phase
        from rlhfcli.core.training.parts import PhaseInputs
        from rlhfcli.data.preparation.prepare import prepare, ready
    reward = recipe.reward.model_copy(update={"init_from": "base"})  # as fast, and there without the SFT phase
    from_base = recipe.model_copy(update={"reward": reward})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared = ready(recipe, workspace.run.data) or prepare(recipe, tokenizer, run_layout.data(folder), sink)
        inputs = PhaseInputs(from_base, prepared, tokenizer, folder, sink)
        return [bench_phase(inputs, phase, steps, find_size=find_size) for phase in phases]


def estimate_memory(workspace: Workspace, phase: Phase, ranks: int, ranks_here: int) -> dict[str, Any]:
    """Estimate the memory that a phase needs; nothing is trained and nothing is written.

    Args:
        workspace: The opened run.
        phase: ``sft`` or ``reward``.
        ranks: Number of ranks in all.
        ranks_here: Number of ranks that share the memory of this machine.

    Returns:
        See ``dry_run``.

    Raises:
        UserError: There is no rank, or there are more of them here than in all.
    """
    if not 1 <= ranks_here <= ranks:
        raise UserError(f"ranks must be at least 1, and at least as many as ranks_here, got {ranks} and {ranks_here}")
    recipe, sink, tokenizer = workspace.recipe, workspace.sink, workspace.tokenizer
    with sink.stage("importing the core"):
        from rlhfcli.core.capacity.dry_run import Assumed, dry_run
        from rlhfcli.core.training.parts import PhaseInputs
        from rlhfcli.data.preparation.prepare import ready
    section = recipe.sft if phase == SFT else recipe.reward
    assumed = Assumed(section.micro_batch_tokens, recipe.data.max_length, len(tokenizer))
    prepared = ready(recipe, workspace.run.data) or assumed
    inputs = PhaseInputs(recipe, prepared, tokenizer, workspace.run.path, sink)
    with sink.stage(f"{phase}: a step of the model without memory"):
        return dry_run(inputs, phase, ranks, ranks_here)
