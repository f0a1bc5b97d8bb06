"""What a stopped phase left behind, and whether this recipe may go on from it. Loads no torch.

A checkpoint stores the settings that its training depends on. Going on with others would give a model that no recipe
describes, so a difference is refused, key by key. What only says how the same numbers are computed may differ: number
of ranks, ZeRO stage, micro-batches, intervals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rlhfcli.errors import DataError, ModelError, OutputError
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import CHECKPOINT_MANIFEST, REWARD, SFT, Phase, checkpoints, list_checkpoints, step_of
from rlhfcli.recipe.schema import Recipe

FINGERPRINT = "prepared data"
_HARMLESS = ("model.gradient_checkpointing", "sft.micro_batch_tokens", "reward.micro_batch_tokens")
_ABSENT = object()


def settings(recipe: Recipe, phase: Phase) -> dict[str, Any]:
    """What the training of a phase depends on.

    Args:
        recipe: All settings.
        phase: ``sft`` or ``reward``.

    Returns:
        Dotted keys and their values, as JSON holds them.
    """
    names = ["seed", "model", "data", phase]
    if phase == REWARD and recipe.reward.init_from == SFT:
        names.append(SFT)
    return flat(without_secrets(recipe.model_dump(mode="json", include=set(names))))


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and their values, without those that only say how the same numbers are computed.

    Args:
        sections: Of a recipe, by name.
    """
    return {key: value for key, value in _flat("", dict(sections)) if key not in _HARMLESS}


def refuse_other_settings(recipe: Recipe, phase: Phase, run: Path) -> None:
    """Check before anything is written that a phase may go on with this recipe.

    Args:
        recipe: That of this command.
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
    """Return whether a phase was stopped that began with certain prepared data.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
        fingerprint: The fingerprint of the data.
    """
    newest = _newest(run, phase)
    return newest is not None and newest[1].get(FINGERPRINT) == fingerprint


def refuse_new_data(run: Path, phase: Phase, fingerprint: str, reason: str) -> None:
    """Check before data is replaced that a phase which was stopped does not need it.

    Args:
        run: The run folder.
        phase: ``sft`` or ``reward``.
        fingerprint: Of the data that is about to be prepared.
        reason: Why the present data cannot be used.

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
    """Compare what a checkpoint was trained with to what it would be trained with now.

    Args:
        before: The checkpoint's settings.
        now: Those of this command.
        checkpoint: Its folder.

    Raises:
        OutputError: A value differs; every one is shown.
    """
    shown = differences(before, now, "checkpoint")
    if not shown:
        return
    raise OutputError(
        "\n".join(["the checkpoint was trained with other settings", *shown]),
        where=str(checkpoint),
        hint="Go on with the settings of the checkpoint, or begin again with --overwrite.",
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[str]:
    """Every key whose value is another one, with both, as an error shows them.

    Args:
        before: Settings of what is there, by dotted key; a key that an older version did not know has its default.
        now: Those of this command.
        where: What the former belong to.

    Raises:
        UserError: What a path named is gone. It was made absolute when it was there; now it stands as it was typed.
    """
    for key, old in before.items():
        if isinstance(old, str) and isinstance(new := now.get(key), str) and _is_gone(old, new):
            raise (ModelError if key.startswith("model.") else DataError)(
                "this run was made from it, and it is not there any more",
                where=old,
                hint=f"Put it back: the recipe calls it {new} ({key}). Or begin another run: --set output_dir=…",
            )
    keys = [key for key in dict.fromkeys([*before, *now]) if _before(before, key) != now.get(key, _ABSENT)]
    return [f"{key}: {_shown(before, key)} ({where}) {_shown(now, key)} (now)" for key in keys]


def _is_gone(old: str, new: str) -> bool:
    """Whether a path, of which a recipe gives the end alone, has nothing at it."""
    parts = [part for part in Path(os.path.normpath(new)).parts if part != os.pardir]
    if not os.path.isabs(old) or os.path.isabs(new) or list(Path(old).parts[-len(parts) :]) != parts:
        return False
    return not os.path.exists(old)


def _before(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    default = _default(key.split("."))
    return default if default is _ABSENT else to_jsonable_python(default)


def _default(path: list[str], section: type[BaseModel] = Recipe) -> Any:
    """What the schema takes for a key that is left out."""
    field = section.model_fields.get(path[0])
    inner = [name for name in path[1:] if not name.isdecimal()]  # the schema knows no entries of lists
    if field is None:
        return _ABSENT
    if inner:
        sections = [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
        return _default(inner, sections[0]) if sections else _ABSENT
    return _ABSENT if field.is_required() else field.get_default(call_default_factory=True)


def _kinds(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def _newest(run: Path, phase: Phase) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose settings can be read, and these; the others are damaged, which resuming reports."""
    for checkpoint in reversed(list_checkpoints(checkpoints(run, phase))):
        stored = _stored(checkpoint)
        if stored is not None:
            return checkpoint, stored
    return None


def _stored(checkpoint: Path) -> dict[str, Any] | None:
    """The settings in a checkpoint; ``None`` where they cannot be read."""
    try:
        text = (checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8").partition("\n")[2]
        found = json.loads(text)["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        value = {str(number): inner for number, inner in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    else:
        yield name, value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "nothing"
