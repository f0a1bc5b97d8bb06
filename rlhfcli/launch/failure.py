"""Find which rank failed first, and why, from the reports and logs that the ranks have left."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhfcli import errors
from rlhfcli.errors import Interrupted, Problem, RankError, RecipeError, RlhfError, UserError
from rlhfcli.files.run_layout import PHASES, checkpoints, list_checkpoints, step_of
from rlhfcli.launch.rank import LOST, RUN, log_of, report_of

_LESS_MEMORY = (
    "Lower sft.micro_batch_tokens or reward.micro_batch_tokens, train with LoRA, set "
    "model.gradient_checkpointing=true, or let DeepSpeed partition more: deepspeed.zero_stage=3."
)
_SIGNALS = {
    signal.SIGKILL: ("was killed (signal 9)", f"Usually the machine ran out of memory; dmesg says so. {_LESS_MEMORY}"),
    signal.SIGBUS: ("hit a bus error (signal 7)", "Usually /dev/shm is too small: give a container --shm-size=8g."),
    signal.SIGSEGV: ("crashed inside a library (signal 11)", "rlhf doctor shows the versions of the libraries."),
    signal.SIGABRT: ("was aborted by a library (signal 6)", "Its log, or the lines above, say why."),
}
_ENDED_BY_US = (-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGINT)
_LAST_LINES = 4096  # bytes of a log that are read


@dataclass(frozen=True)
class Trace:
    """What is known about the end of a rank.

    Args:
        rank: Number of the rank.
        exit_code: Its exit code, ``-9`` for signal 9; ``None`` if it is not known.
        report: Its report, if it could write one.
        log: Its log, if it has written one.
    """

    rank: int
    exit_code: int | None
    report: dict[str, Any] = field(default_factory=dict)
    log: Path | None = None

    @property
    def order(self) -> tuple[int, float]:
        """Sort key: the lower, the more likely the cause of the other failures; then by time."""
        what, code = str(self.report.get("what", "")), self.exit_code
        ranking = [
            bool(self.report.get("ours")),
            code is not None and code < 0 and code not in (*_ENDED_BY_US, -signal.SIGABRT),
            bool(self.report) and not any(words in what for words in LOST),
            code == -signal.SIGABRT,  # libraries also abort when they wait for a dead rank
            bool(self.report),
            code is not None and code not in (0, *_ENDED_BY_US),
        ]
        return (ranking.index(True) if True in ranking else len(ranking)), float(self.report.get("time", 0.0))


def explain(exits: Mapping[int, int], files: Path) -> tuple[RlhfError, Path | None]:
    """Find the rank that failed first, and explain its error.

    Args:
        exits: Exit codes by rank, with those of the ranks that failed.
        files: Folder of their reports and logs.

    Returns:
        The error to show, and the log that it refers to.
    """
    reported = {int(file.stem.partition("-")[2]) for file in files.glob("rank-*.json")}
    traces = [_trace(rank, exits.get(rank), files) for rank in sorted(reported | set(exits))]
    cause = min(traces, key=lambda trace: (*trace.order, trace.rank))
    if cause.report.get("ours"):
        return _rebuilt(cause), None
    what, where, hint = _words(cause)
    return RankError(what, where, f"{hint} {_resume(files)}".strip()), cause.log


def _resume(files: Path) -> str:
    """Say how to resume from the newest checkpoint of the run, if there is one."""
    try:
        run = Path((files / RUN).read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:  # no rank has opened the run
        return ""
    phases = (list_checkpoints(checkpoints(run, phase)) for phase in reversed(PHASES))
    left = next((found[-1] for found in phases if found), None)
    return "" if left is None else f"The same command with --resume continues after step {step_of(left):,}."


def interruption(files: Path) -> Interrupted | None:
    """Return the first rank's message if it stopped as requested; ``None`` if it had nothing to save.

    Args:
        files: Folder of the reports.
    """
    trace = _trace(0, None, files)
    return Interrupted(trace.report["what"]) if trace.report.get("type") == Interrupted.__name__ else None


def _trace(rank: int, exit_code: int | None, files: Path) -> Trace:
    report, log = report_of(files, rank), log_of(files, rank).resolve()
    written = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    return Trace(rank, exit_code, written, log if log.exists() and log.stat().st_size else None)


def _rebuilt(trace: Trace) -> RlhfError:
    """Rebuild the rank's own error: an error that the user can fix looks the same as without ranks."""
    report = trace.report
    kind: type[RlhfError] = getattr(errors, report["type"], RlhfError)
    if issubclass(kind, RecipeError):
        return RecipeError([Problem(**problem) for problem in report["problems"]], hint=report["hint"])
    where = report["where"]
    if not issubclass(kind, (UserError, Interrupted)):
        where = f"rank {trace.rank}: {where}" if where else f"rank {trace.rank}"
    return kind(report["what"], where=where, hint=report["hint"])


def _words(trace: Trace) -> tuple[str, str | None, str]:
    """Return what, where and hint of the error."""
    name, where = f"rank {trace.rank}", str(trace.log) if trace.log else None
    if trace.report:
        kind, what = trace.report["type"], str(trace.report["what"])
        line = next(iter(what.strip().splitlines()), "")
        if kind in ("OutOfMemoryError", "MemoryError") or errors.mentions_out_of_memory(what):
            return f"{name} ran out of memory: {line}", where, _LESS_MEMORY
        if any(words in what for words in LOST):
            hint = "Another rank has ended without a message; on several nodes, see the output of the other nodes."
            return f"{name} has lost another rank: {kind}: {line}", where, hint
        return f"{name}: {kind}: {line}", where, "The log has the whole traceback."
    code = trace.exit_code or 0
    if code < 0:
        what, hint = _SIGNALS.get(signal.Signals(-code), (f"was ended by {signal.Signals(-code).name}", ""))
        return f"{name} {what}", where, hint or "It was killed, by a user or by the system."
    last = _last_line(trace.log)
    return f"{name} ended with exit code {code}" + (f": {last}" if last else ""), where, "Its log may say more."


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_LINES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
