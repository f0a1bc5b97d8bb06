"""Comparison of settings, key by key, with defaults for the keys that an older version did not have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rlhfcli.errors import DataError, ModelError
from rlhfcli.recipe.schema import Recipe

_WITHOUT_EFFECT = ("model.gradient_checkpointing", "sft.micro_batch_tokens", "reward.micro_batch_tokens")
_ABSENT = object()


def flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys and values, without settings that only say how the same numbers are computed.

    Args:
        sections: Sections of a recipe by name, as JSON values.
    """
    return {key: value for key, value in _items("", dict(sections)) if key not in _WITHOUT_EFFECT}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[str]:
    """List the keys whose values differ, one line each, with both values.

    Args:
        before: Recorded settings by dotted key; a missing key has its default.
        now: Settings of this command.
        where: Label of the recorded value.

    Raises:
        ModelError: The model that a recorded path named no longer exists. The path was made absolute while it existed;
            now the setting stands as it was typed.
        DataError: The same for data.
    """
    for key, old in before.items():
        if isinstance(old, str) and isinstance(new := now.get(key), str) and _is_gone(old, new):
            raise (ModelError if key.startswith("model.") else DataError)(
                "this run was made from it, and it no longer exists",
                where=old,
                hint=f"Put it back: the recipe names it {new} ({key}). Or begin another run: --set output_dir=…",
            )
    keys = [key for key in dict.fromkeys([*before, *now]) if _recorded(before, key) != now.get(key, _ABSENT)]
    return [f"{key}: {_shown(before, key)} ({where}) {_shown(now, key)} (now)" for key in keys]


def _is_gone(old: str, new: str) -> bool:
    """Return whether an absolute path, of which the recipe now names only the end, does not exist."""
    parts = [part for part in Path(os.path.normpath(new)).parts if part != os.pardir]
    if not os.path.isabs(old) or os.path.isabs(new) or list(Path(old).parts[-len(parts) :]) != parts:
        return False
    return not os.path.exists(old)


def _recorded(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    default = _default(key.split("."))
    return default if default is _ABSENT else to_jsonable_python(default)


def _default(path: list[str], section: type[BaseModel] = Recipe) -> Any:
    """Return the schema's default of a key."""
    field = section.model_fields.get(path[0])
    inner = [name for name in path[1:] if not name.isdecimal()]  # indices of lists are not in the schema
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


def _items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        value = {str(number): inner for number, inner in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _items(f"{name}.{key}".lstrip("."), inner)
    else:
        yield name, value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "nothing"
