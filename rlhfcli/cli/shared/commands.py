"""The command line as it was typed, and the commands to type next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhfcli import console
from rlhfcli.api.options import Caller

if TYPE_CHECKING:
    from rlhfcli.recipe.schema import Recipe

_LAUNCH_OPTIONS = ("--gpus", "--ranks", "--nnodes", "--node-rank", "--main-address", "--hostfile")


def caller() -> Caller:
    """Return this command, as the API wants to know it."""
    return Caller(("rlhf", *sys.argv[1:]), launch_options(sys.argv[1:]))


def launch_options(arguments: Sequence[str]) -> str:
    """Return the options that say where a command runs, as they were typed, each with a space before it.

    Args:
        arguments: The command line after the name of the program.
    """
    kept: list[str] = []
    for number, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name == "--offline":
            kept.append(argument)
        elif name in _LAUNCH_OPTIONS:
            kept += [argument] if equals else arguments[number : number + 2]
    return "".join(f" {shlex.quote(part)}" for part in kept)


def show_next(recipe: Recipe, *commands: str) -> None:
    """Print what to type next for a run.

    Args:
        recipe: Recipe of the run.
        commands: Without their recipes: ``rlhf reward``.
    """
    from rlhfcli.runs.commands import command_for

    console.next_steps([command_for(recipe, command) for command in commands])
