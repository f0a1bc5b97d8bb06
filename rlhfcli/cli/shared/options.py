"""Options that several verbs have, and the opening of a project."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console

if TYPE_CHECKING:
    from rlhfcli.api.project import Project
    from rlhfcli.recipe.schema import Recipe

RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="FILE|NAME",
        help="Recipe file, folder of a run, or built-in name. Left out: that of the newest run with what is needed, "
        "else tiny.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe: --set sft.learning_rate=1e-4. May be given several times.",
        show_default=False,
    ),
]
LabelOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of a reward model with several outputs: the one that counts.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Forbid the network: local files and caches only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what an earlier command made, and nothing else."),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue a training that was stopped from its newest checkpoint."),
]
MaxTimeOption = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="TIME",
        help="After 3h55m, 90m or 2d, stop with a checkpoint and exit code 130; --resume continues.",
        show_default=False,
    ),
]


def open_project(
    recipe: str | None, changes: Sequence[str] | None, verb: str = "", *, offline: bool = False, brief: bool = False
) -> Project:
    """Open the project of a command, and say at once what it works with, since loading the libraries takes seconds.

    Args:
        recipe: Value of ``--recipe``.
        changes: Values of ``--set``.
        verb: The command: without ``--recipe`` it takes a run that has what it needs.
        offline: ``--offline`` was given.
        brief: Name the recipe alone, not its folder, model and data.

    Raises:
        UserError: There is no such recipe, or it cannot be used.
    """
    from rlhfcli import launch
    from rlhfcli.api.project import Project
    from rlhfcli.cli.shared.commands import caller
    from rlhfcli.recipe import trust
    from rlhfcli.runs import opening  # pydantic takes a fifth of a second, which --help need not wait for

    launch.in_this_process(offline=offline)
    loaded = opening.open_recipe(recipe, changes or [], verb=verb)
    console.message(loaded.first_line, style="dim")
    for note in (*loaded.notes, *trust.notes(loaded.recipe)):
        console.message(note, style="yellow")
    if not brief:
        _show_sources(loaded.recipe)
    return Project(loaded, progress=console.TerminalSink(), offline=offline, caller=caller())


def _show_sources(recipe: Recipe) -> None:
    paths = [source.path for source in recipe.data.sources]
    names = [Path(path).name if os.path.isabs(path) else path for path in paths]
    data = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    console.message(f"run: {recipe.output_dir} · model: {recipe.model.name} · data: {data}", style="dim")
