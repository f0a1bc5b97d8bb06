"""``rlhf bench``: how fast this machine trains a recipe, and what limits it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhfcli.cli.shared.options import JsonOption, OfflineOption, RecipeOption, SetOption
from rlhfcli.errors import UserError
from rlhfcli.files.run_layout import PHASES

if TYPE_CHECKING:
    from rlhfcli.cli.shared.work import Work

PhaseOption = Annotated[str, typer.Option("--phase", metavar="sft|reward|both", help="Which phase to measure.")]
StepsOption = Annotated[
    int, typer.Option("--steps", metavar="N", min=1, help="Training steps that count; two more warm up.")
]
SizeOption = Annotated[
    bool, typer.Option("--find-size", help="Also find the largest micro_batch_tokens that fits into memory.")
]


def bench(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    phase: PhaseOption = "both",
    steps: StepsOption = 10,
    find_size: SizeOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure training steps: tokens per second, share of the machine's peak, memory, and what limits them.

    Nothing is trained that stays: no model and no metrics are written. The peak is measured, too: matrix
    multiplications of the model's own sizes.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared import work
    from rlhfcli.cli.views import tables

    if phase not in (*PHASES, "both"):
        raise UserError(f"--phase is sft, reward or both, not {phase}")
    job = work.begin(recipe, overrides or [], offline=offline)
    results = _measure(job, PHASES if phase == "both" else (phase,), steps, find_size)
    if as_json:
        console.result(json.dumps(results))
        return
    console.result(tables.bench_tables(results))


def _measure(job: Work, phases: Sequence[str], steps: int, find_size: bool) -> list[dict[str, Any]]:
    """Measure phases; what has to be written for it goes into a folder that is gone afterwards."""
    from rlhfcli.cli.shared import work

    tokenizer = work.tokenizer_of(job)
    with job.sink.stage("importing the core"):
        from rlhfcli.core.capacity.bench import bench_phase
        from rlhfcli.core.training.phases import PhaseInputs
        from rlhfcli.data.preparation.prepare import prepare, ready
    reward = job.recipe.reward.model_copy(update={"init_from": "base"})  # as fast, and there without the SFT phase
    recipe = job.recipe.model_copy(update={"reward": reward})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared = ready(job.recipe, job.run.data) or prepare(job.recipe, tokenizer, folder / "data", job.sink)
        project = PhaseInputs(recipe, prepared, tokenizer, folder, job.sink)
        return [bench_phase(project, name, steps, find_size=find_size) for name in phases]
