"""Provenance: the settings that each artifact of a run was made with, compared with those of a recipe.

An artifact that was made with other settings belongs to another recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhfcli.errors import OutputError, RecipeError
from rlhfcli.files import strict_yaml
from rlhfcli.files.redact import without_secrets
from rlhfcli.files.run_layout import RECIPE, recipe_file
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.settings import differences, flatten

_KEYS: dict[str, tuple[str, ...]] = {
    "data": ("seed", "model.name", "data"),
    "sft": ("seed", "model.name", "data", "sft"),
    "reward": ("seed", "model.name", "data", "sft", "reward"),
}
_MOST_LINES = 12  # of differing keys in an error


def settings(recipe: Recipe, artifact: str) -> dict[str, Any]:
    """Select the settings that an artifact depends on, as ``run.json`` records them.

    Args:
        recipe: All settings.
        artifact: ``data``, ``sft`` or ``reward``.
    """
    return _select(without_secrets(recipe.model_dump(mode="json")), artifact)


def recorded_settings(run: Path, record: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Return the settings that a phase was trained with: from ``run.json``, else from the run's recipe.

    Args:
        run: The run folder.
        record: Content of ``run.json``.
        phase: ``sft`` or ``reward``.
    """
    made = ((record.get("parts") or {}).get(phase) or {}).get("recipe")
    if isinstance(made, dict):
        return made
    try:
        text = recipe_file(run).read_text(encoding="utf-8")
        return _select(strict_yaml.read(text, RECIPE).data, phase)
    except (OSError, ValueError, RecipeError):
        return {}


def changed_settings(made: Mapping[str, Any], recipe: Recipe, artifact: str, name: str) -> list[str]:
    """Describe each setting that differs between an artifact and a recipe, one line for each key.

    Args:
        made: As returned by ``recorded_settings``.
        recipe: The recipe of this command.
        artifact: Artifact whose settings are compared.
        name: Label of the recorded value in the lines.
    """
    now = settings(recipe, artifact)
    return differences(flatten({key: made.get(key) for key in now}), flatten(now), name)


def refuse_changed_settings(found: Mapping[str, list[str]], where: Path, hint: str) -> None:
    """Refuse to mix artifacts that were made with different settings.

    Args:
        found: Phase to its differences, as returned by ``changed_settings``.
        where: Path for the error.
        hint: What to do.

    Raises:
        OutputError: There are differences; the first of them are shown.
    """
    if lines := describe(found, "the output folder belongs to another recipe: {} made with other settings"):
        raise OutputError("\n".join(lines), where=str(where), hint=hint)


def describe(found: Mapping[str, list[str]], what: str) -> list[str]:
    """Format the differences of several phases for a message.

    Args:
        found: Phase to its differences, as returned by ``changed_settings``.
        what: The first line, with ``{}`` in place of "sft and reward were".

    Returns:
        That line and the first differences; empty without differences.
    """
    lines = list(dict.fromkeys(line for differing in found.values() for line in differing))
    phases = [phase for phase, differing in found.items() if differing]
    subject = f"{' and '.join(phases)} {'was' if len(phases) == 1 else 'were'}"
    more = [f"… and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return [what.format(subject), *lines[:_MOST_LINES], *more] if lines else []


def recipe_as_trained(made: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """Return a recipe whose settings are those that a phase was trained with.

    Args:
        made: As returned by ``recorded_settings``.
        recipe: The recipe of this command; returned unchanged if settings of an older version are no longer valid.
    """
    changed = recipe.model_dump(mode="json")
    for key in (key for key, value in made.items() if value is not None):
        *sections, last = key.split(".")
        place = changed
        for name in sections:
            place = place[name]
        place[last] = made[key]
    try:
        return Recipe.model_validate(changed)
    except ValidationError:
        return recipe


def _select(recipe: Any, artifact: str) -> dict[str, Any]:
    return {key: _get(recipe, key) for key in _KEYS[artifact]}


def _get(recipe: Any, key: str) -> Any:
    for name in key.split("."):
        recipe = recipe.get(name) if isinstance(recipe, dict) else None
    return recipe
