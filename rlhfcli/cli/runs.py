"""``rlhf runs``: what is in the output root, how far each run is, and how good."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhfcli import console
from rlhfcli.cli.common import JsonOption
from rlhfcli.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

_PHASES = ("sft", "reward")


@dataclass(frozen=True)
class Phase:
    """How far a phase is.

    Args:
        done: Its model is there.
        step: Last step in its metrics; 0 before the first.
        steps: How many there will be, if that is known.
        checkpoint: Step of its newest checkpoint.
        best: Its lowest loss on the validation part; of a reward model its lowest nll, where the metrics have it.
        figure: Which of them it is.
    """

    done: bool
    step: int
    steps: int | None
    checkpoint: int | None
    best: float | None
    figure: str = "loss"


@dataclass
class Run:
    """What was found of a run.

    Args:
        name: Its folder's.
        used: When it was last worked on, in seconds since 1970.
        data: Its data is prepared.
        phases: Those that have begun.
        measured: ``rlhf eval`` ran, after all phases.
        figures: The best there is of each model: perplexity, or loss; ranking accuracy with its interval.
        broken: What cannot be read in it.
    """

    name: str
    used: float
    data: bool = False
    phases: dict[str, Phase] = field(default_factory=dict)
    measured: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def runs(
    root: Annotated[Path, typer.Option("--root", metavar="FOLDER", help="Where the runs are.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs: how far each is, its best figures, and when it was last used; the newest first."""
    if not root.is_dir() and root != Path("runs"):
        raise UserError(
            "there is no such folder", where=str(root), hint="--root takes the folder that the runs are in."
        )
    found, others = read(root)
    if as_json:
        told = [{"path": str(root / run.name), **asdict(run), "used": _moment(run).isoformat()} for run in found]
        console.result(json.dumps(told, ensure_ascii=False))
        return
    if found:
        console.result(_table(found))
    for run in found:
        for what in run.broken:
            console.message(f"{root / run.name}: {what}", style="yellow")
    if others:
        console.message(f"{others:,} other {'thing' if others == 1 else 'things'} in {root}, no run")
    if not found:
        console.message(f"there is no run in {root} yet")
        console.next_steps([("rlhf run", "the whole way on the built-in tiny model")])


def read(root: Path) -> tuple[list[Run], int]:
    """Look at every run below a folder; what is broken in one is written down in it.

    Args:
        root: Folder of runs.

    Returns:
        The runs, the newest first; and how many other things are there.
    """
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError:
        return [], 0
    folders = [entry for entry in entries if any((entry / name).exists() for name in ("run.json", "recipe.yaml"))]
    found = [_read_run(folder) for folder in folders]
    return sorted(found, key=lambda run: -run.used), len(entries) - len(found)


def _read_run(folder: Path) -> Run:
    from rlhfcli.recipe import unfinished

    run = Run(folder.name, 0.0)
    record = _object(folder / "run.json", run)
    recipe = _recipe(folder / "recipe.yaml", run)
    manifest = _object(folder / "data" / "manifest.json", run, needed=False)
    run.data = bool(manifest)
    for phase in _PHASES:
        lines = list(_metrics(folder / phase / "metrics.jsonl", run))
        done = (folder / phase / "final").is_dir()
        checkpoints = [unfinished.step_of(each) for each in unfinished.checkpoints(folder / phase / "checkpoints")]
        if lines or done or checkpoints:
            step = max((_number(line.get("step")) or 0 for line in lines), default=0)
            figure = "nll" if any("eval_nll" in line for line in lines) else "loss"
            losses = [loss for line in lines if (loss := _number(line.get(f"eval_{figure}"))) is not None]
            steps = _steps(_part(recipe, phase), _rows(manifest, phase))
            best = min(losses, default=None)
            run.phases[phase] = Phase(done, int(step), steps, max(checkpoints, default=None), best, figure)
    results = {phase: _object(folder / "eval" / f"{phase}.json", run, needed=False) for phase in _PHASES}
    run.measured = bool(run.phases) and all(results[phase] for phase in run.phases)
    run.figures = _figures(run, results, _part(record, "parts"))
    run.used = _used(folder, record)
    return run


def _figures(run: Run, results: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rlhf eval`` found; before that, what training saw."""
    figures: dict[str, Any] = {}
    if (perplexity := _number(results["sft"].get("perplexity"))) is not None:
        figures["perplexity"] = perplexity
    elif "sft" in run.phases and (loss := _saved_loss(run.phases["sft"], _part(parts, "sft"))) is not None:
        figures["sft_loss"] = loss
    if (accuracy := _number(results["reward"].get("accuracy"))) is not None:
        figures["accuracy"] = accuracy
        interval = results["reward"].get("accuracy_ci95")
        if isinstance(interval, list) and len(interval) == 2 and all(_number(end) is not None for end in interval):
            figures["accuracy_ci95"] = interval
    elif (accuracy := _number(_part(parts, "reward").get("eval_accuracy"))) is not None:
        figures["accuracy"] = accuracy
    elif "reward" in run.phases and run.phases["reward"].best is not None:
        figures[f"reward_{run.phases['reward'].figure}"] = run.phases["reward"].best
    return figures


def _saved_loss(phase: Phase, noted: Mapping[str, Any]) -> float | None:
    """The loss of the model that is there; before that, the lowest there was."""
    saved = _number(noted.get("eval_loss")) if phase.done else None
    return phase.best if saved is None else saved


def _metrics(file: Path, run: Run) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        run.broken.append(f"{file.parent.name}/{file.name} cannot be read: {error}")
        return
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            yield found
        elif number < len(lines):  # the last one may be half written while the run goes on
            run.broken.append(f"{file.parent.name}/{file.name}:{number} is not a line of metrics")


def _object(file: Path, run: Run, *, needed: bool = True) -> dict[str, Any]:
    """What a JSON file says; empty, and noted, where it cannot be read."""
    name = file.name if file.parent.name == run.name else f"{file.parent.name}/{file.name}"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            run.broken.append(f"{name} is missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        run.broken.append(f"{name} cannot be read: {error}")
        return {}
    if not isinstance(found, dict):
        run.broken.append(f"{name} holds no keys")
        return {}
    return found


def _recipe(file: Path, run: Run) -> dict[str, Any]:
    from rlhfcli.recipe import strict_yaml

    try:
        found = strict_yaml.read(file.read_text(encoding="utf-8"), file.name).data
    except FileNotFoundError:
        run.broken.append(f"{file.name} is missing")
        return {}
    except (OSError, ValueError, RecursionError, UserError) as error:
        run.broken.append(f"{file.name} cannot be read: {str(error).splitlines()[0]}")
        return {}
    return found if isinstance(found, dict) else {}


def _rows(manifest: Mapping[str, Any], phase: str) -> int | None:
    """Training examples of a phase."""
    rows = _number(_part(_part(manifest, "tokens"), f"{phase}_train").get("rows"))
    return None if rows is None else int(rows)


def _steps(section: Mapping[str, Any], rows: int | None) -> int | None:
    """How many steps a phase takes: every epoch ends with a step of its own."""
    batch, epochs = _number(section.get("batch_size", 64)), _number(section.get("epochs", 1))
    limit = _number(section.get("max_steps"))
    if rows is None or not rows or not batch or not epochs:
        return None if limit is None else int(limit)
    total = math.ceil(rows * epochs)
    steps = total // rows * math.ceil(rows / batch) + math.ceil(total % rows / batch)
    return steps if limit is None else min(steps, int(limit))


def _used(folder: Path, record: Mapping[str, Any]) -> float:
    moments = [file.stat().st_mtime for phase in _PHASES if (file := folder / phase / "metrics.jsonl").is_file()]
    try:
        said = datetime.fromisoformat(str(record["updated"]).replace("Z", "+00:00"))
        moments.append((said if said.tzinfo else said.replace(tzinfo=timezone.utc)).timestamp())
    except (KeyError, ValueError, OverflowError):
        moments.append(folder.stat().st_mtime)
    return max(moments)


def _moment(run: Run) -> datetime:
    return datetime.fromtimestamp(run.used).astimezone()


def _part(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if fine else None


def state(run: Run) -> str:
    """How far a run is, in words."""
    if run.measured and all(phase.done for phase in run.phases.values()):
        return "evaluated" if len(run.phases) == len(_PHASES) else f"{', '.join(run.phases)} evaluated"
    parts = []
    for name, phase in run.phases.items():
        if phase.done:
            parts.append(f"{name} done")
            continue
        of = "" if phase.steps is None else f"/{phase.steps:,}"
        kept = "" if phase.checkpoint is None else f" (checkpoint {phase.checkpoint:,})"
        parts.append(f"{name} {phase.step:,}{of}{kept}")
    return ", ".join(parts) or ("data prepared" if run.data else "begun")


def figures(run: Run) -> str:
    """The best figures of a run, in words."""
    found, parts = run.figures, []
    if "perplexity" in found:
        parts.append(f"perplexity {found['perplexity']:,.2f}")
    if "sft_loss" in found:
        parts.append(f"sft loss {found['sft_loss']:.4f}")
    if "accuracy" in found:
        ends = ", ".join(f"{100 * end:.1f}" for end in found.get("accuracy_ci95", ()))
        parts.append(f"accuracy {100 * found['accuracy']:.1f} %" + (f" [{ends}]" if ends else ""))
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
        drawn.add_row(Text(run.name), Text(state(run)) + broken, Text(figures(run)), Text(used))
    return drawn
