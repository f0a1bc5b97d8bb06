"""``rlhf bench``: how fast this machine trains a recipe, and what limits it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rlhfcli.cli.shared.options import JsonOption, OfflineOption, RecipeOption, SetOption, open_project
from rlhfcli.errors import UserError
from rlhfcli.files.run_layout import PHASES

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
    from rlhfcli.cli.views import tables

    if phase not in (*PHASES, "both"):
        raise UserError(f"--phase is sft, reward or both, not {phase}")
    project = open_project(recipe, overrides, offline=offline)
    phases = [each for each in PHASES if phase in (each, "both")]
    results = project.bench(phases, steps=steps, find_size=find_size)
    if as_json:
        console.result(json.dumps(results))
        return
    console.result(tables.bench_tables(results))
