"""``rlhf eval``: measure both models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli.cli.shared.options import (
    JsonOption,
    LabelOption,
    OfflineOption,
    RecipeOption,
    SetOption,
    open_project,
)
from rlhfcli.errors import UsageError

if TYPE_CHECKING:
    from rlhfcli.api.project import Project


def evaluate(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Measure the reward model on a published benchmark instead: its file, or a folder with its files. May "
            "be given several times.",
            show_default=False,
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="With --benchmark: another reward model than the run's.")
    ] = None,
    label: LabelOption = None,
) -> None:
    """Measure the fine-tuned model against the base model, and the reward model against its baselines.

    Writes <output_dir>/eval/sft.json and <output_dir>/eval/reward.json; with --benchmark, eval/benchmarks.json.
    """
    from rlhfcli import console
    from rlhfcli.cli.shared.commands import show_next
    from rlhfcli.cli.views import tables

    if (reward or label) and not benchmark:
        raise UsageError("--reward and --label go with --benchmark", hint="Name a file: --benchmark PATH")
    # another reward model needs no run that has been trained
    project = open_project(recipe, overrides, "" if reward else "eval", offline=offline, brief=bool(reward))
    if benchmark:
        _measure_benchmarks(project, benchmark, reward, label, as_json=as_json)
        return
    results = project.evaluate().by_phase()
    if as_json:
        console.result(json.dumps(results, ensure_ascii=False))
        return
    console.result(*tables.evaluation_tables(results))
    show_next(project.recipe, "rlhf chat")


def _measure_benchmarks(
    project: Project, paths: list[Path], reward: str | None, label: str | None, *, as_json: bool
) -> None:
    from rlhfcli import console
    from rlhfcli.cli.views import tables

    result = project.benchmark(paths, reward, label=label)
    if as_json:
        console.result(json.dumps(result, ensure_ascii=False))
    else:
        console.result(tables.benchmark_tables(result))
