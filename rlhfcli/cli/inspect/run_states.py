"""Reads the state of runs from disk: how far each is and how good; damage in one is noted and hides no other run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhfcli.errors import UserError
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import PHASES, Phase


@dataclass(frozen=True)
class PhaseState:
    """The progress of a phase.

    Args:
        done: Whether its model is there.
        step: Last step in its metrics; 0 before the first.
        steps: Number of steps in all, if that is known.
        checkpoint: Step of its newest checkpoint.
        best: Lowest validation loss; of a reward model the lowest nll, where the metrics have it.
        figure: Name of the figure in ``best``.
    """

    done: bool
    step: int
    steps: int | None
    checkpoint: int | None
    best: float | None
    figure: str = "loss"


@dataclass
class Run:
    """The state of a run.

    Args:
        name: Name of its folder.
        used: Time of the last command that worked on it, in seconds since 1970.
        data: Whether its data is prepared.
        phases: Phases that have begun.
        measured: Whether ``rlhf eval`` has measured all of them.
        figures: The best figure of each model: perplexity, or loss; ranking accuracy with its interval.
        broken: Files that cannot be read, with the reason.
        taken_by: Commands that take this run without ``--recipe``.
        in_use: The command that has locked it, in words; empty if none has.
    """

    name: str
    used: float
    data: bool = False
    phases: dict[Phase, PhaseState] = field(default_factory=dict)
    measured: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    taken_by: list[str] = field(default_factory=list)
    in_use: str = ""


def read(root: Path) -> tuple[list[Run], int]:
    """Read the state of every run in a folder.

    Args:
        root: Folder of runs.

    Returns:
        The runs, newest first; and the number of other entries.
    """
    from rlhfcli.runs import recent

    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    except OSError:
        return [], 0
    folders = [
        entry
        for entry in entries
        if any(os.path.exists(entry / name) for name in (run_layout.RECORD, run_layout.RECIPE))
    ]
    found = [_read_run(folder) for folder in recent.sorted_by_use(folders)]
    return found, len(entries) - len(found)


def _read_run(folder: Path) -> Run:
    from rlhfcli.files import folder_lock
    from rlhfcli.runs import recent

    run = Run(folder.name, recent.last_used(folder), in_use=folder_lock.holder_of(folder))
    if recent.is_ahead(run.used):
        run.broken.append("its times lie in the future: the clock was wrong, and it does not count as the newest")
    record = _object(run_layout.record_file(folder), run)
    recipe = _recipe(run_layout.recipe_file(folder), run)
    manifest = _object(run_layout.data(folder) / run_layout.DATA_MANIFEST, run, needed=False)
    run.data = bool(manifest)
    for phase in PHASES:
        lines = list(_metrics(run_layout.metrics(folder, phase), run))
        done = os.path.isdir(run_layout.final(folder, phase))
        checkpoints = list(map(run_layout.step_of, run_layout.list_checkpoints(run_layout.checkpoints(folder, phase))))
        if lines or done or checkpoints:
            step = max((_number(line.get("step")) or 0 for line in lines), default=0)
            figure = "nll" if any("eval_nll" in line for line in lines) else "loss"
            losses = [loss for line in lines if (loss := _number(line.get(f"eval_{figure}"))) is not None]
            steps = _steps(_part(recipe, phase), _rows(manifest, phase))
            best = min(losses, default=None)
            run.phases[phase] = PhaseState(done, int(step), steps, max(checkpoints, default=None), best, figure)
    results = {phase: _object(run_layout.evaluation(folder) / f"{phase}.json", run, needed=False) for phase in PHASES}
    run.measured = bool(run.phases) and all(results[phase] for phase in run.phases)
    run.figures = _figures(run, results, _part(record, "parts"))
    return run


def _figures(run: Run, results: Mapping[Phase, Mapping[str, Any]], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of ``rlhf eval``; before it ran, those of the training."""
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


def _saved_loss(phase: PhaseState, noted: Mapping[str, Any]) -> float | None:
    """Return the loss of the trained model; before it is there, the lowest so far."""
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
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            yield found
        elif number < len(lines):  # the last one may be incomplete while the run trains
            run.broken.append(f"{file.parent.name}/{file.name}:{number} is not a line of metrics")


def _object(file: Path, run: Run, *, needed: bool = True) -> dict[str, Any]:
    """Return the object of a JSON file; empty, with a note in the run, where it cannot be read."""
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
    from rlhfcli.files import strict_yaml

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
    """Return the number of training examples of a phase."""
    rows = _number(_part(_part(manifest, "tokens"), f"{phase}_train").get("rows"))
    return None if rows is None else int(rows)


def _steps(section: Mapping[str, Any], rows: int | None) -> int | None:
    """Return the number of steps of a phase, as ``core/training/step_plan.py`` plans them, from an unchecked recipe."""
    from rlhfcli.recipe.schema import PhaseSection

    batch, epochs = (
        _number(section.get(key, PhaseSection.model_fields[key].default)) for key in ("batch_size", "epochs")
    )
    limit = _number(section.get("max_steps"))
    if rows is None or not rows or not batch or not epochs:
        return None if limit is None else int(limit)
    try:
        total = math.ceil(rows * epochs)
        steps = total // rows * math.ceil(rows / batch) + math.ceil(total % rows / batch)
    except OverflowError:
        return None if limit is None else int(limit)
    return steps if limit is None else min(steps, int(limit))


def _part(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None
