"""``--set sft.learning_rate=1e-4``: changes on top of a recipe, read by the same rules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rlhfcli.errors import Problem, RecipeError
from rlhfcli.files import strict_yaml
from rlhfcli.files.strict_yaml import KeyPath


def name(number: int) -> str:
    """How an error names the change with this number; they count from 1."""
    return f"--set #{number}"


def apply(data: Any, overrides: Sequence[str]) -> tuple[Any, dict[KeyPath, int], list[tuple[int, Problem]]]:
    """Change a recipe.

    Args:
        data: The recipe as read; it is left alone.
        overrides: ``key=value`` texts; the value is YAML, the key is dotted (``data.sources.0.path``).

    Returns:
        The changed recipe; which change (its number) set which path; what is wrong with single changes.
    """
    data = copy.deepcopy(data)
    made: dict[KeyPath, int] = {}
    problems: list[tuple[int, Problem]] = []
    for number, override in enumerate(overrides, start=1):
        key, equals, text = override.partition("=")
        path = _path(key)
        if not equals or not all(path) or not path:
            what = f'write it as key=value, such as --set sft.epochs=2; got "{override}"'
            problems.append((number, Problem(name(number), "", what)))
            continue
        try:
            document = strict_yaml.read(text, name(number))
        except RecipeError as error:
            problems.extend((number, Problem(p.where.split(":")[0], key, p.what)) for p in error.problems)
            continue
        problems.extend((number, Problem(name(number), key, what)) for _, _, what in document.problems)
        try:
            place = _put(data, path, document.data)
        except _NoPlaceError as error:
            problems.append((number, Problem(name(number), key, str(error))))
            continue
        made = {p: n for p, n in made.items() if p[: len(place)] != place}
        made[place] = number
    return data, made, problems


def _path(key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in key.strip().split("."))


class _NoPlaceError(Exception):
    """A key leads nowhere."""


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> KeyPath:
    """Set a value, making the sections on the way; returns its path with indices as numbers."""
    at: Any = data
    place: list[str | int] = []
    for depth in range(len(path)):
        key = _key(at, path, depth)
        place.append(key)
        if depth == len(path) - 1:
            at[key] = value
        elif (at.get(key) if isinstance(at, dict) else at[key]) is None:
            at[key] = [] if path[depth + 1].isdecimal() else {}
        at = at[key]
    return tuple(place)


def _key(at: Any, path: tuple[str, ...], depth: int) -> str | int:
    """The next key or index; a list grows by one where the index is its length."""
    here, part = ".".join(path[:depth]), path[depth]
    if isinstance(at, dict):
        return part
    if not isinstance(at, list):
        raise _NoPlaceError(f"{here} is no section, so it can have no key {part}")
    if not part.isdecimal():
        rest = ".".join(path[depth:])
        raise _NoPlaceError(f"{here} is a list: say which entry, such as {here}.0.{rest}")
    index = int(part)
    if index > len(at):
        entries = "1 entry" if len(at) == 1 else f"{len(at)} entries"
        raise _NoPlaceError(f"{here} has {entries}, counted from 0; the next new one is {here}.{len(at)}")
    if index == len(at):
        at.append(None)
    return index


def as_typed(path: KeyPath, made: dict[KeyPath, int]) -> int | None:
    """Which change set this path, or something around it."""
    return next((made[path[:n]] for n in range(len(path), 0, -1) if path[:n] in made), None)


def made_below(path: KeyPath, made: dict[KeyPath, int]) -> int | None:
    """Which change made a section on its way to a key inside."""
    return next((number for place, number in made.items() if path and place[: len(path)] == path), None)
