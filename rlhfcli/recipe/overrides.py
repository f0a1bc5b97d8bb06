"""``--set sft.learning_rate=1e-4``: changes of a recipe, parsed by the rules of its file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rlhfcli.errors import Problem, RecipeError
from rlhfcli.files import strict_yaml
from rlhfcli.files.strict_yaml import KeyPath


def name(number: int) -> str:
    """Return the name of a change in errors: ``--set #1``.

    Args:
        number: Position among the changes, from 1.
    """
    return f"--set #{number}"


def apply(data: Any, overrides: Sequence[str]) -> tuple[Any, dict[KeyPath, int], list[tuple[int, Problem]]]:
    """Return a changed copy of a recipe.

    Args:
        data: The recipe as read.
        overrides: ``key=value`` texts; the value is YAML, the key is dotted (``data.sources.0.path``).

    Returns:
        The changed recipe; the number of the change that gave a value, by path; numbers and problems of changes that
        could not be made.
    """
    data = copy.deepcopy(data)
    changed: dict[KeyPath, int] = {}
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
        changed = {p: n for p, n in changed.items() if p[: len(place)] != place}
        changed[place] = number
    return data, changed, problems


def _path(key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in key.strip().split("."))


class _NoPlaceError(Exception):
    """A key does not lead to a value of the recipe."""


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> KeyPath:
    """Set a value, create missing sections above it, and return its path with indices as numbers."""
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
    """Return the next key or index; an index equal to the length of a list appends an entry."""
    here, part = ".".join(path[:depth]), path[depth]
    if isinstance(at, dict):
        return part
    if not isinstance(at, list):
        raise _NoPlaceError(f"{here} is no section, so it cannot have a key {part}")
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


def number_at(path: KeyPath, changed: dict[KeyPath, int]) -> int | None:
    """Return the number of the change that set a value, or a section around it.

    Args:
        path: Path of the value.
        changed: As returned by ``apply``.
    """
    return next((changed[path[:n]] for n in range(len(path), 0, -1) if path[:n] in changed), None)


def number_below(path: KeyPath, changed: dict[KeyPath, int]) -> int | None:
    """Return the number of the change that set a value inside a section.

    Args:
        path: Path of the section.
        changed: As returned by ``apply``.
    """
    return next((number for place, number in changed.items() if path and place[: len(path)] == path), None)
