"""Options of the training verbs: on how many ranks they run, and ``--dry-run``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhfcli import console
from rlhfcli.cli.shared.dry_run import dry_run
from rlhfcli.errors import UserError

_PANEL = "Ranks: on several GPUs, cores or machines"

GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="N|all",
        help="Train on this many GPUs of this machine. Left out: one.",
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
        help="Without GPUs: train in this many processes, which share the cores.",
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

DryJsonOption = Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON alone on stdout.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Train nothing: estimate the memory, and say which ZeRO stage fits."),
]


def _options(
    gpus: GpusOption = None,
    ranks: RanksOption = None,
    nnodes: NodesOption = 1,
    node_rank: NodeRankOption = None,
    main_address: MainAddressOption = None,
    hostfile: HostfileOption = None,
) -> None:
    """Declare the options for ranks."""


def _dry_options(dry_run: DryRunOption = False, as_json: DryJsonOption = False) -> None:
    """Declare the options of a dry run."""


def on_ranks(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a training verb run on several ranks or estimate its memory, and give it the options for both.

    Args:
        verb: The function of a training verb.

    Returns:
        The verb with eight more options.
    """
    declared = inspect.signature(_options, eval_str=True).parameters
    dry = inspect.signature(_dry_options, eval_str=True).parameters

    def command(**options: Any) -> None:
        from rlhfcli import launch

        ranks = launch.Options(**{name: options.pop(name) for name in declared})
        estimate, as_json = (options.pop(name) for name in dry)
        if as_json and not estimate:
            raise UserError("--json belongs to --dry-run", hint="The figures of a training are in metrics.jsonl.")
        if estimate:
            plan = launch.imagined(ranks, launch.usable_gpus())
            dry_run(verb.__name__, plan, options, as_json=as_json)
            return
        warning = launch.check_launcher()
        if launch.is_rank():
            with launch.as_rank():
                verb(**options)
        elif not launch.start(ranks, sys.argv[1:]):
            if warning:
                console.message(warning, style="yellow")
            verb(**options)

    own = inspect.signature(verb, eval_str=True)
    parameters = [*own.parameters.values(), *dry.values(), *declared.values()]
    command.__name__, command.__doc__ = verb.__name__, verb.__doc__
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
