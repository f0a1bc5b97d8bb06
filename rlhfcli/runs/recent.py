"""Which run a command takes that names none: the one that was used last, of those that have what the verb needs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rlhfcli.errors import RecipeError
from rlhfcli.files import run_layout, strict_yaml
from rlhfcli.files.run_layout import PHASES, REWARD, SFT, Phase

AHEAD = 3600.0  # seconds that a clock of another machine may be ahead of ours
_END = 32_500_000_000  # the year 2999: what is beyond is no moment


@dataclass(frozen=True)
class Need:
    """What a verb needs to find in a run.

    Args:
        name: In words.
        found: Whether a run has it.
    """

    name: str
    found: Callable[[Path], bool]


def _made(*phases: Phase) -> Callable[[Path], bool]:
    return lambda run: any(os.path.isdir(run_layout.final(run, phase)) for phase in phases)


def _can_train_reward(run: Path) -> bool:
    if _made(SFT)(run) or run_layout.list_checkpoints(run_layout.checkpoints(run, REWARD)):
        return True
    try:
        recipe = strict_yaml.read(run_layout.recipe_file(run).read_text(encoding="utf-8"), run_layout.RECIPE).data
    except (OSError, ValueError, RecipeError):
        return False
    section = recipe.get(REWARD) if isinstance(recipe, dict) else None
    return isinstance(section, dict) and section.get("init_from") == "base"


NEEDS = {
    "reward": Need("sft/final", _can_train_reward),
    "eval": Need("a trained model", _made(*PHASES)),
    "chat": Need("sft/final", _made(SFT)),
    "export sft": Need("sft/final", _made(SFT)),
    "export reward": Need("reward/final", _made(REWARD)),
}


@dataclass(frozen=True)
class Choice:
    """The run that a command takes.

    Args:
        run: Its folder; ``None`` where there is no run.
        why: In words.
    """

    run: Path | None
    why: str


def choose(runs: Path, verb: str = "", changes: Sequence[str] = ()) -> Choice:
    """Choose the run of a command without ``--recipe``.

    Args:
        runs: Folder of the runs.
        verb: Which command, as in ``NEEDS``; any other takes the newest run.
        changes: What ``--set`` says.

    Returns:
        The newest run that has what the verb needs; where none has, the newest.
    """
    found = newest_first(runs)
    if not found:
        return Choice(None, f"built in; no --recipe, and no run in {runs}/ yet")
    need = NEEDS.get(verb)
    if verb == "reward" and any(change.replace(" ", "") == "reward.init_from=base" for change in changes):
        need = None
    fitting = [run for run in found if need is None or _has(need, run)]
    if need is None or not fitting or fitting[0] == found[0]:
        return Choice(found[0], f"the newest run in {runs}/")
    return Choice(fitting[0], f"the newest run in {runs}/ with {need.name}; {found[0]} is newer and has none")


def newest_first(runs: Path) -> list[Path]:
    """The runs below a folder, the one that was used last first.

    Args:
        runs: Folder of runs; those without a ``recipe.yaml`` that can be read are left out.
    """
    try:
        entries = sorted(runs.iterdir())
    except OSError:
        return []
    return sorted_by_use(entry for entry in entries if _is_file(run_layout.recipe_file(entry)))


def sorted_by_use(runs: Iterable[Path]) -> list[Path]:
    """Sort runs: the one that was used last first, those whose times lie in the future last."""
    return sorted(runs, key=lambda run: _order(last_used(run)), reverse=True)


def is_ahead(moment: float) -> bool:
    """Whether a moment lies in the future, by more than clocks differ."""
    return moment > time.time() + AHEAD


def last_used(run: Path) -> float:
    """When a run was last worked on, in seconds since 1970.

    Args:
        run: Its folder; the ``updated`` of its ``run.json`` counts, and when its ``metrics.jsonl`` grew. What lies in
            the future was written by a clock that was wrong, and does not count if anything else is there.
    """
    moments = [_said(run), *(_changed(run_layout.metrics(run, phase)) for phase in PHASES)]
    known = [moment for moment in moments if moment is not None]
    if all(map(is_ahead, known)):
        known += [
            moment for name in (run_layout.RECORD, run_layout.RECIPE) if (moment := _changed(run / name)) is not None
        ]
    return max(known, key=_order, default=0.0)


def _order(moment: float) -> tuple[bool, float]:
    return not is_ahead(moment), moment


def _said(run: Path) -> float | None:
    try:
        said = json.loads(run_layout.record_file(run).read_text(encoding="utf-8"))["updated"]
        moment = datetime.fromisoformat(str(said).replace("Z", "+00:00"))
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        return seconds if 0 < seconds < _END else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _changed(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file() and os.access(file, os.R_OK)
    except OSError:  # in a folder that only somebody else may look into
        return False


def _has(need: Need, run: Path) -> bool:
    try:
        return need.found(run)
    except OSError:
        return False
