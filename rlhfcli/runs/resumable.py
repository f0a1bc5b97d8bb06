"""Whether a recipe may resume from the checkpoints of a stopped phase. Loads no torch.

A checkpoint stores the settings that its training depends on. Resuming with others would give a model that no recipe
describes, so every difference is refused. Settings that only say how the same numbers are computed may differ: the
number of ranks, ZeRO stage, micro-batches, intervals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhfcli.errors import OutputError
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import CHECKPOINT_MANIFEST, REWARD, SFT, Phase, checkpoints, list_checkpoints, step_of
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.settings import differences, flatten

FINGERPRINT = "prepared data"  # key of the data's fingerprint among the settings of a checkpoint


def settings(recipe: Recipe, phase: Phase) -> dict[str, Any]:
    """Return the settings that the training of a phase depends on.

    Args:
        recipe: All settings.
        phase: ``sft`` or ``reward``.

    Returns:
        Dotted keys and their values, as JSON holds them.
    """
    names = ["seed", "model", "data", phase]
    if phase == REWARD and recipe.reward.init_from == SFT:
        names.append(SFT)
    return flatten(without_secrets(recipe.model_dump(mode="json", include=set(names))))


def refuse_other_settings(recipe: Recipe, phase: Phase, run: Path) -> None:
    """Check, before anything is written, that a phase can resume with this recipe.

    Args:
        recipe: The recipe of this command.
        phase: ``sft`` or ``reward``.
        run: The run folder.

    Raises:
        OutputError: The newest checkpoint was trained with other settings.
    """
    if newest := _newest(run, phase):
        checkpoint, before = newest
        before.pop(FINGERPRINT, None)
        refuse_changes(before, settings(recipe, phase), checkpoint)


def needs_data(run: Path, phase: Phase, fingerprint: str) -> bool:
    """Return whether a stopped phase was trained on certain prepared data.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
        fingerprint: Fingerprint of the data.
    """
    newest = _newest(run, phase)
    return newest is not None and newest[1].get(FINGERPRINT) == fingerprint


def refuse_new_data(run: Path, phase: Phase, fingerprint: str, reason: str) -> None:
    """Check, before data is replaced, that no stopped phase needs it.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
        fingerprint: Fingerprint of the data that is about to be prepared.
        reason: Why the existing data cannot be used.

    Raises:
        OutputError: The newest checkpoint was trained on other data.
    """
    newest = _newest(run, phase)
    if newest and newest[1].get(FINGERPRINT, fingerprint) != fingerprint:
        raise OutputError(
            f"the {phase} phase was stopped after step {step_of(newest[0]):,}, and can only resume with the data that "
            f"it began with; that {reason}",
            where=str(newest[0]),
            hint="Was a file of data changed, or the tokenizer? Put that back, begin again with --overwrite, or keep "
            "both with --set output_dir=…",
        )


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path) -> None:
    """Check that the settings of a checkpoint are those of this command.

    Args:
        before: Settings of the checkpoint.
        now: Settings of this command.
        checkpoint: Folder of the checkpoint.

    Raises:
        OutputError: Values differ; the error lists them.
    """
    shown = differences(before, now, "checkpoint")
    if not shown:
        return
    raise OutputError(
        "\n".join(["the checkpoint was trained with other settings", *shown]),
        where=str(checkpoint),
        hint="Resume with the settings of the checkpoint, or begin again with --overwrite.",
    )


def _newest(run: Path, phase: Phase) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint with readable settings, and these; resuming reports the damaged ones."""
    for checkpoint in reversed(list_checkpoints(checkpoints(run, phase))):
        stored = _stored(checkpoint)
        if stored is not None:
            return checkpoint, stored
    return None


def _stored(checkpoint: Path) -> dict[str, Any] | None:
    """Return the settings of a checkpoint; ``None`` if they cannot be read."""
    try:
        text = (checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8").partition("\n")[2]
        found = json.loads(text)["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
