"""``rlhf runs``: how far each run is, and how good."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console
from rlhfcli.cli.inspect.run_states import Run, read
from rlhfcli.cli.shared.options import JsonOption
from rlhfcli.errors import UserError
from rlhfcli.files.run_layout import PHASES, RUNS
from rlhfcli.words import percent, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERBS = ("prepare-data", "sft", "reward", "eval", "chat", "run", "export sft", "export reward")


def runs(
    root: Annotated[Path, typer.Option("--root", metavar="FOLDER", help="Where the runs are.")] = RUNS,
    as_json: JsonOption = False,
) -> None:
    """List the runs: how far each is, its best figures, and when it was last used; the newest first."""
    if not root.is_dir() and root != RUNS:
        raise UserError(
            "there is no such folder", where=str(root), hint="--root takes the folder that the runs are in."
        )
    found, others = read(root)
    if root == RUNS:
        _mark_taken(found)
    if as_json:
        states = [{"path": str(root / run.name), **asdict(run), "used": _moment(run).isoformat()} for run in found]
        console.result(json.dumps(states, ensure_ascii=False))
        return
    if found:
        console.result(_table(found))
        for line in (*_taken(found), *(f"{run.name} is in use by {run.in_use}" for run in found if run.in_use)):
            console.result(line)
    for run in found:
        for what in run.broken:
            console.message(f"{root / run.name}: {what}", style="yellow")
    if others:
        console.message(f"{others:,} other {'thing' if others == 1 else 'things'} in {root}, no run")
    if not found:
        console.message(f"there is no run in {root} yet")
        console.next_steps([("rlhf run", "the whole way on the built-in tiny model")])


def _moment(run: Run) -> datetime:
    return datetime.fromtimestamp(run.used).astimezone()


def state(run: Run) -> str:
    """Describe how far a run is.

    Args:
        run: Its state.
    """
    if run.measured and all(phase.done for phase in run.phases.values()):
        return "evaluated" if len(run.phases) == len(PHASES) else f"{', '.join(run.phases)} evaluated"
    parts = []
    for name, phase in run.phases.items():
        if phase.done:
            parts.append(f"{name} done")
            continue
        total = "" if phase.steps is None else f"/{phase.steps:,}"
        checkpoint = "" if phase.checkpoint is None else f" (checkpoint {phase.checkpoint:,})"
        parts.append(f"{name} {phase.step:,}{total}{checkpoint}")
    return ", ".join(parts) or ("data prepared" if run.data else "begun")


def figures(run: Run) -> str:
    """Describe the best figures of a run.

    Args:
        run: Its state.
    """
    found, parts = run.figures, []
    if "perplexity" in found:
        parts.append(f"perplexity {found['perplexity']:,.2f}")
    if "sft_loss" in found:
        parts.append(f"sft loss {found['sft_loss']:.4f}")
    if "accuracy" in found:
        ends = ", ".join(f"{100 * end:.1f}" for end in found.get("accuracy_ci95", ()))
        parts.append(f"accuracy {percent(found['accuracy'])}" + (f" [{ends}]" if ends else ""))
    parts += [f"reward {name} {found[f'reward_{name}']:.4f}" for name in ("nll", "loss") if f"reward_{name}" in found]
    return ", ".join(parts)


def _table(found: Sequence[Run]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    drawn.add_column("run", overflow="fold")
    drawn.add_column("state", overflow="fold")
    drawn.add_column("best figures", overflow="fold")
    drawn.add_column("last used", no_wrap=True)
    for run in found:
        used = _moment(run).strftime("%Y-%m-%d %H:%M")
        broken = Text(" · broken", style="yellow") if run.broken else Text()
        drawn.add_row(
            Text(f"{'→ ' if run.taken_by else '  '}{visible(run.name)}"),
            Text(state(run)) + broken,
            Text(figures(run)),
            Text(used),
        )
    return drawn


def _mark_taken(found: Iterable[Run]) -> None:
    """Note in each run the commands that take it without ``--recipe``."""
    from rlhfcli.runs import recent

    by_name = {run.name: run for run in found}
    for verb in _VERBS:
        run = recent.choose(RUNS, verb).run
        if run is not None and run.name in by_name:
            by_name[run.name].taken_by.append(verb)


def _taken(found: Sequence[Run]) -> Iterator[str]:
    """Describe which run each command takes without ``--recipe``."""
    taken = [run for run in found if run.taken_by]
    if len(taken) == 1:
        yield f"→ without --recipe every command takes {taken[0].name}"
    elif taken:
        yield "→ without --recipe " + "; ".join(f"{', '.join(run.taken_by)} take {run.name}" for run in taken)
