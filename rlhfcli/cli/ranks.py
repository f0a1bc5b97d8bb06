"""The options of the training verbs that say how many ranks they run on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_PANEL = "Ranks: on several GPUs, cores or machines"

GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="N|all",
        help="Train on so many GPUs of this machine. Left out: one.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        metavar="N",
        min=1,
        help="Without GPUs: train in so many processes that share the cores.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
NodesOption = Annotated[
    int,
    typer.Option(
        "--nnodes",
        metavar="N",
        min=1,
        help="Several machines: how many. The same command is typed on each; output_dir is on a disk they share.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
NodeRankOption = Annotated[
    int | None,
    typer.Option(
        "--node-rank",
        metavar="K",
        help="Which of them this is, from 0.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
MainAddressOption = Annotated[
    str | None,
    typer.Option(
        "--main-address",
        metavar="HOST[:PORT]",
        help="Where number 0 is.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
HostfileOption = Annotated[
    Path | None,
    typer.Option(
        "--hostfile",
        metavar="FILE",
        help="Several machines, started from here through DeepSpeed's launcher, pdsh and ssh.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def _options(
    gpus: GpusOption = None,
    ranks: RanksOption = None,
    nnodes: NodesOption = 1,
    node_rank: NodeRankOption = None,
    main_address: MainAddressOption = None,
    hostfile: HostfileOption = None,
) -> None:
    """Declares them."""


def on_ranks(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb run on many ranks, and give it the options that say on how many.

    Args:
        verb: The function of a training verb.

    Returns:
        The verb with six options more.
    """
    declared = inspect.signature(_options, eval_str=True).parameters

    def command(**given: Any) -> None:
        from rlhfcli import launch

        options = launch.Options(**{name: given.pop(name) for name in declared})
        if launch.is_rank():
            with launch.as_rank():
                verb(**given)
        elif not launch.start(options, sys.argv[1:]):
            verb(**given)

    own = inspect.signature(verb, eval_str=True)
    parameters = [*own.parameters.values(), *declared.values()]
    command.__name__, command.__doc__ = verb.__name__, verb.__doc__
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
