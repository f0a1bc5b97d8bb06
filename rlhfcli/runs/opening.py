"""The recipe of a command: the named one, else that of the newest run, else the built-in ``tiny``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhfcli.errors import RecipeError, UserError
from rlhfcli.files.run_layout import RECIPE, RUNS, recipe_file
from rlhfcli.recipe import builtin
from rlhfcli.recipe.loader import SEE, Loaded, load_recipe
from rlhfcli.runs import recent


def find_recipe(
    option: str | None, runs: Path = RUNS, verb: str = "", changes: Sequence[str] = ()
) -> tuple[str | Path, str]:
    """Find the recipe of a command.

    Args:
        option: Value of ``--recipe``: a file, a run folder, or a built-in name; ``None``: see ``recent``.
        runs: Folder of the runs.
        verb: The command, which needs a run with certain models.
        changes: The ``key=value`` texts of ``--set``.

    Returns:
        A built-in name or a file, and the reason for the choice.

    Raises:
        UserError: There is no such recipe.
    """
    if option is not None:
        return _find_named(option), "from --recipe"
    choice = recent.choose(runs, verb, changes)
    return ("tiny" if choice.run is None else recipe_file(choice.run)), choice.why


def open_recipe(option: str | None, changes: Sequence[str] = (), runs: Path = RUNS, verb: str = "") -> Loaded:
    """Find and load the recipe of a command.

    Args:
        option: Value of ``--recipe``, as for ``find_recipe``.
        changes: The ``key=value`` texts of ``--set``.
        runs: Folder of the runs.
        verb: The command, as for ``find_recipe``.

    Returns:
        The validated recipe, with the reason for the choice.

    Raises:
        UserError: There is no such recipe, or it is invalid.
    """
    source, why = find_recipe(option, runs, verb, changes)
    named = not isinstance(source, Path) or source == Path(option or "").expanduser()
    try:
        return load_recipe(source, changes, why, named=named)
    except RecipeError as error:
        if option is None and isinstance(source, Path):
            error.hint = f"{SEE}\nThis is {why}; --recipe takes another one."
        raise


def _find_named(option: str) -> str | Path:
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
