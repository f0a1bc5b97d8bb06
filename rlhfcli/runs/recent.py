"""The run that a command works on if none is named: the last used one that has the model that the verb needs."""

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

AHEAD = 3600.0  # seconds that another machine's clock may be ahead of ours
_LATEST = 32_500_000_000  # the year 2999; later times are invalid


@dataclass(frozen=True)
class Need:
    """What a verb needs in a run.

    Args:
        name: Its description.
        found: Tells whether a run folder has it.
    """

    name: str
    found: Callable[[Path], bool]


def _trained(*phases: Phase) -> Callable[[Path], bool]:
    return lambda run: any(os.path.isdir(run_layout.final(run, phase)) for phase in phases)


def _can_train_reward(run: Path) -> bool:
    if _trained(SFT)(run) or run_layout.list_checkpoints(run_layout.checkpoints(run, REWARD)):
        return True
    try:
        recipe = strict_yaml.read(run_layout.recipe_file(run).read_text(encoding="utf-8"), run_layout.RECIPE).data
    except (OSError, ValueError, RecipeError):
        return False
    section = recipe.get(REWARD) if isinstance(recipe, dict) else None
    return isinstance(section, dict) and section.get("init_from") == "base"


NEEDS = {
    "reward": Need("sft/final", _can_train_reward),
    "eval": Need("a trained model", _trained(*PHASES)),
    "chat": Need("sft/final", _trained(SFT)),
    "export sft": Need("sft/final", _trained(SFT)),
    "export reward": Need("reward/final", _trained(REWARD)),
}


@dataclass(frozen=True)
class Choice:
    """The run that a command works on.

    Args:
        run: The run folder; ``None`` if there is no run.
        why: The reason, for the first line of output.
    """

    run: Path | None
    why: str


def choose(runs: Path, verb: str = "", changes: Sequence[str] = ()) -> Choice:
    """Choose the run of a command without ``--recipe``.

    Args:
        runs: Folder of the runs.
        verb: A key of ``NEEDS``; every other command takes the newest run.
        changes: The ``key=value`` texts of ``--set``.

    Returns:
        The newest run that has what the verb needs; if none has it, the newest.
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
    """List the runs of a folder, last used first.

    Args:
        runs: Folder of the runs; those without a readable ``recipe.yaml`` are left out.
    """
    try:
        entries = sorted(runs.iterdir())
    except OSError:
        return []
    return sorted_by_use(entry for entry in entries if _is_file(run_layout.recipe_file(entry)))


def sorted_by_use(runs: Iterable[Path]) -> list[Path]:
    """Sort runs: last used first, those with times in the future at the end.

    Args:
        runs: Run folders.
    """
    return sorted(runs, key=lambda run: _order(last_used(run)), reverse=True)


def is_ahead(moment: float) -> bool:
    """Return whether a time lies in the future by more than clocks differ.

    Args:
        moment: Seconds since 1970.
    """
    return moment > time.time() + AHEAD


def last_used(run: Path) -> float:
    """Return when a run was last used, in seconds since 1970.

    The time is ``updated`` in ``run.json``, or that of the last line of metrics. Times in the future come from a wrong
    clock, and count only if there is no other.

    Args:
        run: The run folder.
    """
    moments = [_updated(run), *(_modified(run_layout.metrics(run, phase)) for phase in PHASES)]
    known = [moment for moment in moments if moment is not None]
    if all(map(is_ahead, known)):
        known += [
            moment for name in (run_layout.RECORD, run_layout.RECIPE) if (moment := _modified(run / name)) is not None
        ]
    return max(known, key=_order, default=0.0)


def _order(moment: float) -> tuple[bool, float]:
    return not is_ahead(moment), moment


def _updated(run: Path) -> float | None:
    try:
        updated = json.loads(run_layout.record_file(run).read_text(encoding="utf-8"))["updated"]
        moment = datetime.fromisoformat(str(updated).replace("Z", "+00:00"))
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        return seconds if 0 < seconds < _LATEST else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _modified(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file() and os.access(file, os.R_OK)
    except OSError:  # in a folder of another user
        return False


def _has(need: Need, run: Path) -> bool:
    try:
        return need.found(run)
    except OSError:
        return False
