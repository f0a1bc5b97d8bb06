"""What came out of a phase, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhfcli import console

if TYPE_CHECKING:
    from rlhfcli.core.result import Result
    from rlhfcli.runs.run_folder import RunFolder


def say_trained(run: RunFolder, phase: str, result: Result) -> None:
    """The phase in one line."""
    name = "nll" if phase == "reward" else "loss"  # a reward model's loss holds more, see RewardTask
    figures = f"validation {name} {_change(result, f'eval_{name}')}"
    if phase == "reward":
        figures += f", ranking accuracy {_change(result, 'eval_accuracy')}"
    if result.best:
        figures += f" (after step {result.best['step']:,}: {result.best['by']})"
    folder = run.sft if phase == "sft" else run.reward
    console.message(f"{phase}: {result.steps:,} steps in {result.seconds:.0f} s, {figures}. Saved: {folder}")


def _change(result: Result, name: str) -> str:
    """A figure before and after; a history, or a best step, of an older version may lack it."""
    begins = bool(result.history) and result.history[0].get("step") == 0  # it may have lost lines
    before, after = result.history[0].get(name) if begins else None, result.evaluation.get(name)
    if after is None:
        return "not known"
    return f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}"
