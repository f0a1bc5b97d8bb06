"""What the verbs share: their options, and how a project is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console

if TYPE_CHECKING:
    from rlhfcli.recipe.loader import Loaded
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
    typer.Option("--resume", help="Go on from the newest checkpoint of a training that was stopped."),
]
MaxTimeOption = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="TIME",
        help="After 3h55m, 90m or 2d, stop with a checkpoint and exit code 130; --resume goes on.",
        show_default=False,
    ),
]


def open_project(recipe: str | None, changes: Sequence[str] = (), verb: str = "", *, say_all: bool = False) -> Loaded:
    """Find, read and check the recipe of a command, and say which one it is.

    Args:
        recipe: What ``--recipe`` says.
        changes: What ``--set`` says.
        verb: Which command: without ``--recipe`` it takes a run that has what it needs.
        say_all: Say at once which folder, model and data it works with, too: the libraries take their time.

    Returns:
        The recipe, ready to use.

    Raises:
        UserError: There is no such recipe, or it cannot be used.
    """
    from rlhfcli.recipe import trust
    from rlhfcli.runs import opening  # pydantic takes a fifth of a second, which --help need not wait for

    loaded = opening.open_recipe(recipe, changes, verb=verb)
    console.message(loaded.first_line, style="dim")
    for note in (*loaded.notes, *trust.notes(loaded.recipe)):
        console.message(note, style="yellow")
    if say_all:
        _say_what_is_known(loaded.recipe)
    return loaded


def _say_what_is_known(recipe: Recipe) -> None:
    paths = [source.path for source in recipe.data.sources]
    names = [Path(path).name if os.path.isabs(path) else path for path in paths]
    data = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    console.message(f"run: {recipe.output_dir} · model: {recipe.model.name} · data: {data}", style="dim")
