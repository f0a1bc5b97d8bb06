"""Which recipe a command takes: the one that is named, else that of the newest run, else the built-in ``tiny``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhfcli.errors import RecipeError, UserError
from rlhfcli.files.run_layout import RECIPE, recipe_file
from rlhfcli.recipe import builtin
from rlhfcli.recipe.loader import SEE, Loaded, load_recipe
from rlhfcli.runs import recent

RUNS = Path("runs")


def find_recipe(
    option: str | None, runs: Path = RUNS, verb: str = "", changes: Sequence[str] = ()
) -> tuple[str | Path, str]:
    """Decide which recipe a command takes.

    Args:
        option: What ``--recipe`` says: a path, the folder of a run, or a built-in name.
        runs: Where the runs are.
        verb: Which command; without ``--recipe`` it takes a run that has what it needs, see ``recent``.
        changes: What ``--set`` says.

    Returns:
        A built-in name or a file, and why it was taken.

    Raises:
        UserError: There is no such recipe.
    """
    if option is not None:
        return _named(option), "from --recipe"
    choice = recent.choose(runs, verb, changes)
    return ("tiny" if choice.run is None else recipe_file(choice.run)), choice.why


def open_recipe(option: str | None, changes: Sequence[str] = (), runs: Path = RUNS, verb: str = "") -> Loaded:
    """Find a recipe and read it: ``find_recipe`` and ``load_recipe`` in one.

    Args:
        option: What ``--recipe`` says.
        changes: What ``--set`` says.
        runs: Where the runs are.
        verb: Which command, as ``find_recipe`` wants it.

    Returns:
        The checked recipe, with the reason why it was taken.

    Raises:
        UserError: There is no such recipe, or it cannot be used.
    """
    source, why = find_recipe(option, runs, verb, changes)
    named = not isinstance(source, Path) or source == Path(option or "").expanduser()
    try:
        return load_recipe(source, changes, why, named=named)
    except RecipeError as error:
        if option is None and isinstance(source, Path):
            error.hint = f"{SEE}\nThis is {why}; --recipe takes another one."
        raise


def _named(option: str) -> str | Path:
    if option in builtin.names():
        return option
    path = Path(option).expanduser()
    if path.is_dir():
        if recipe_file(path).is_file():
            return recipe_file(path)
        hint = "--recipe takes a file, the folder of a run, or a built-in name."
        raise UserError(f"this folder has no {RECIPE}", where=option, hint=hint)
    if path.is_file():
        return path
    known = ", ".join(builtin.names())
    raise UserError(
        "there is no such recipe file, and no built-in recipe of this name",
        where=option,
        hint=f"Built in: {known}. To start from one of them: rlhf recipes copy tiny my.yaml",
    )
