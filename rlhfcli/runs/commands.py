"""Commands to type for a certain run: as short as possible, and never such that they work on another run."""

from __future__ import annotations

import shlex
from pathlib import Path

from rlhfcli.files.run_layout import RUNS, recipe_file
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs import recent


def command_for(recipe: Recipe, command: str, *, later: bool = False) -> str:
    """Complete a command so that it works on a run.

    Args:
        recipe: Recipe of the run.
        command: The command without its recipe: ``rlhf reward``, ``rlhf sft --resume``.
        later: It may be typed much later, when another run is newer.

    Returns:
        The command, with ``--recipe`` where it would take another run without, and with the permission to run a
        model's code where the recipe has it: the recipe of a run folder does not grant that.
    """
    run, verb = Path(recipe.output_dir), command.split()[1]
    if not recipe_file(run).is_file():  # the run has not begun
        return command
    several = later and len(recent.newest_first(RUNS)) > 1
    if several or not _same_folder(recent.choose(RUNS, verb).run, run):
        command += f" --recipe {shlex.quote(str(run))}"
    if recipe.model.trust_remote_code:
        command += " --set model.trust_remote_code=true"
    return command


def _same_folder(chosen: Path | None, run: Path) -> bool:
    return chosen is not None and chosen.resolve() == run.resolve()
