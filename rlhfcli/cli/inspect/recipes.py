"""``rlhf recipes``: list, show, copy and validate recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rlhfcli import console
from rlhfcli.cli.shared import usage
from rlhfcli.cli.shared.options import JsonOption, OverwriteOption, SetOption
from rlhfcli.errors import OutputError, UserError
from rlhfcli.files.atomic import write_file
from rlhfcli.recipe import builtin

app = typer.Typer(
    cls=usage.Group,
    help="List, show, copy and validate recipes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="A recipe of your own: rlhf recipes copy tiny my.yaml · rlhf recipes validate my.yaml",
)
Name = Annotated[str, typer.Argument(help="Name of a built-in recipe; rlhf recipes list has them.")]


@app.command("list", cls=usage.Verb)
def list_recipes(as_json: JsonOption = False) -> None:
    """List the built-in recipes."""
    found = {name: builtin.summary(name) for name in builtin.names()}
    if as_json:
        console.result(json.dumps(found, ensure_ascii=False))
        return
    _show(found)
    console.next_steps([("rlhf recipes show tiny", "read it"), ("rlhf recipes copy tiny my.yaml", "change it")])


@app.command("show", cls=usage.Verb)
def show_recipe(name: Name) -> None:
    """Print a built-in recipe with its comments."""
    console.result(_text(name).rstrip("\n"))


@app.command("copy", cls=usage.Verb)
def copy_recipe(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Where to; left out: NAME.yaml here.", show_default=False)] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Copy a built-in recipe to a file of your own."""
    text, target = _text(name), file or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists() and not overwrite:
        raise OutputError("this file exists", where=str(target), hint="Choose another name, or add --overwrite.")
    write_file(target, text)
    console.message(f"wrote {target}")
    console.next_steps(
        [(f"rlhf recipes validate {target}", "after editing"), (f"rlhf run --recipe {target}", "use it")]
    )


@app.command("validate", cls=usage.Verb)
def validate_recipe(
    file: Annotated[str, typer.Argument(help="Recipe file, folder of a run, or built-in name.")],
    changes: SetOption = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print it with every default written out.")] = False,
) -> None:
    """Check a recipe without running it."""
    from rlhfcli.recipe import loader
    from rlhfcli.runs import opening

    loaded = opening.open_recipe(file, changes or [])
    if resolved:
        console.result(loader.dump(loaded.recipe).rstrip("\n"))
    for note in loaded.notes:
        console.message(note, style="yellow")
    console.message(f"{loaded.name}: this recipe is valid")


def _show(found: Mapping[str, str]) -> None:
    """Print names and summaries; on a terminal they are wrapped between words."""
    if console.results.is_terminal:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 3))
        grid.add_column(no_wrap=True)
        for name, summary in found.items():
            grid.add_row(Text(name), Text(summary))
        console.result(grid)
        return
    width = max(len(name) for name in found)
    for name, summary in found.items():
        console.result(f"{name.ljust(width)}   {summary}")


def _text(name: str) -> str:
    text = builtin.text(name)
    if text is None:
        known = ", ".join(builtin.names())
        raise UserError("there is no built-in recipe of this name", where=name, hint=f"Built in: {known}.")
    return text
