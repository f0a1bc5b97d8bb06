"""What to type to run a command on a certain run: short, and never a line that would take another one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rlhfcli.files.run_layout import recipe_file
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs import recent
from rlhfcli.runs.opening import RUNS

_WHERE = ("--gpus", "--ranks", "--nnodes", "--node-rank", "--main-address", "--hostfile")


def typed(command: str, recipe: Recipe, *, later: bool = False) -> str:
    """Write a command that works on a run.

    Args:
        command: Without its recipe: ``rlhf reward``, ``rlhf sft --resume``.
        recipe: Of the run.
        later: It may be typed much later, when another run is newer.

    Returns:
        The command, with ``--recipe`` where it would take another run without, and with what a run's own recipe
        must not say.
    """
    run, verb = Path(recipe.output_dir), command.split()[1]
    if not recipe_file(run).is_file():  # it has not begun
        return command
    others = later and len(recent.newest_first(RUNS)) > 1
    if others or not _is(recent.choose(RUNS, verb).run, run):
        command += f" --recipe {shlex.quote(str(run))}"
    if recipe.model.trust_remote_code:
        command += " --set model.trust_remote_code=true"
    return command


def machines(arguments: Sequence[str]) -> str:
    """The options of a command line that say where it runs, as they were typed; with a space before them.

    Args:
        arguments: After the name of the program.
    """
    kept: list[str] = []
    for number, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name == "--offline":
            kept.append(argument)
        elif name in _WHERE:
            kept += [argument] if equals else arguments[number : number + 2]
    return "".join(f" {shlex.quote(part)}" for part in kept)


def _is(taken: Path | None, run: Path) -> bool:
    return taken is not None and taken.resolve() == run.resolve()
