"""What a part of a run was made from: a part that was made from something else belongs to another recipe."""

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
from rlhfcli.runs.resumable import differences, flat

_KEYS: dict[str, tuple[str, ...]] = {
    "data": ("seed", "model.name", "data"),
    "sft": ("seed", "model.name", "data", "sft"),
    "reward": ("seed", "model.name", "data", "sft", "reward"),
}
_SHOWN = 12  # differing keys


def settings(recipe: Recipe, part: str) -> dict[str, Any]:
    """The settings that a part is made from, as ``run.json`` keeps them.

    Args:
        recipe: All settings.
        part: ``data``, ``sft`` or ``reward``.
    """
    return _chosen(without_secrets(recipe.model_dump(mode="json")), part)


def noted(run: Path, record: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings that a part of a run was made from: by its notes, else by its recipe.

    Args:
        run: Its folder.
        record: Its ``run.json``.
        part: ``sft`` or ``reward``.
    """
    made = ((record.get("parts") or {}).get(part) or {}).get("recipe")
    if isinstance(made, dict):
        return made
    try:
        text = recipe_file(run).read_text(encoding="utf-8")
        return _chosen(strict_yaml.read(text, RECIPE).data, part)
    except (OSError, ValueError, RecipeError):
        return {}


def changes(made: Mapping[str, Any], recipe: Recipe, part: str, name: str) -> list[str]:
    """In what a recipe differs from what a part was made from, a line for each key.

    Args:
        made: As ``noted`` gives it.
        recipe: Of this command.
        part: Whose settings count.
        name: What to call what was made.
    """
    now = settings(recipe, part)
    return differences(flat({key: made.get(key) for key in now}), flat(now), name)


def refuse_changes(found: Mapping[str, list[str]], where: Path, hint: str) -> None:
    """Refuse to mix what was made from different settings.

    Args:
        found: Parts, and in what each differs; see ``changes``.
        where: What the error is about.
        hint: What to do.

    Raises:
        OutputError: There are differences; the first of them are shown.
    """
    if lines := described(found, "the output folder belongs to another recipe: {} made with other settings"):
        raise OutputError("\n".join(lines), where=str(where), hint=hint)


def described(found: Mapping[str, list[str]], what: str) -> list[str]:
    """What parts differ in, for people.

    Args:
        found: Parts, and in what each differs; see ``changes``.
        what: The first line, with ``{}`` for "sft and reward were".

    Returns:
        That line and the first differences; nothing where there are none.
    """
    lines = list(dict.fromkeys(line for differing in found.values() for line in differing))
    parts = [part for part, differing in found.items() if differing]
    who = f"{' and '.join(parts)} {'was' if len(parts) == 1 else 'were'}"
    more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [what.format(who), *lines[:_SHOWN], *more] if lines else []


def recipe_of(made: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """A recipe with the settings that a part was made from in place of its own.

    Args:
        made: As ``noted`` gives it.
        recipe: Of this command; where an older version's settings are no recipe of today's, it is returned as it is.
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


def _chosen(recipe: Any, part: str) -> dict[str, Any]:
    return {key: _get(recipe, key) for key in _KEYS[part]}


def _get(recipe: Any, key: str) -> Any:
    for name in key.split("."):
        recipe = recipe.get(name) if isinstance(recipe, dict) else None
    return recipe
