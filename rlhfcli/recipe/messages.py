"""pydantic's errors as sentences: "must be at least 1, got 0"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlhfcli.files import strict_yaml
from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe import suggest

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section",
    "model_type": "a section with keys of its own",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_LENGTHS = {"too_short": "at least {min_length}", "too_long": "at most {max_length}"}


def reword(errors: Iterable[Mapping[str, Any]], data: Any) -> list[tuple[KeyPath, str]]:
    """Turn pydantic's errors into one sentence per key.

    Args:
        errors: ``ValidationError.errors()``.
        data: The validated data.

    Returns:
        Paths of keys, and what is wrong with each.
    """
    by_path: dict[KeyPath, list[Mapping[str, Any]]] = {}
    in_union: set[KeyPath] = set()
    for error in errors:
        path, is_union = _real_path(error, data)
        by_path.setdefault(path, []).append(error)
        if is_union:
            in_union.add(path)
    # for "text or a list of text", an invalid entry of a list is reported, not the list
    outer = {p for p in in_union if any(len(q) > len(p) and q[: len(p)] == p for q in by_path)}
    return [(path, _sentence(path, found)) for path, found in by_path.items() if path not in outer]


def shown(value: Any) -> str:
    """Format a value for an error message.

    Args:
        value: As read from YAML or JSON.
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "..."
        return f'the text "{text}"'
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return _number(value)


def _number(value: float) -> str:
    text = str(value)
    return re.sub(r"e([-+])0(\d)$", r"e\1\2", text) if isinstance(value, float) else text


def _real_path(error: Mapping[str, Any], data: Any) -> tuple[KeyPath, bool]:
    """Return the part of pydantic's path that is in the data, and whether the rest names a member of a union."""
    path: list[str | int] = []
    at = data
    parts = list(error["loc"])
    for n, part in enumerate(parts):
        inside = (isinstance(at, dict) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and 0 <= part < len(at)
        )
        if not inside:
            is_missing = error["type"] == "missing" and n == len(parts) - 1
            if not is_missing:
                # inside a union, a tag precedes the index or key
                following = parts[n + 1] if n + 1 < len(parts) else None
                if (isinstance(at, list) and isinstance(following, int)) or (isinstance(at, dict) and following in at):
                    continue
                return tuple(path), True
        path.append(part)
        at = at[part] if inside else None
    return tuple(path), False


def _sentence(path: KeyPath, errors: list[Mapping[str, Any]]) -> str:
    first = errors[0]
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    if kind == "extra_forbidden":
        return suggest.unknown_key(path)
    if kind == "missing":
        return "must be given" if isinstance(path[-1], str) else "an entry is missing"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind == "string_too_short":
        return "must not be empty"
    if kind in _LENGTHS:
        least = _LENGTHS[kind].format(**context)
        noun = "entry" if least.endswith(" 1") else "entries"
        return f"must have {least} {noun}, got {context['actual_length']}"
    expected = " or ".join(dict.fromkeys(_expected(error) for error in errors))
    return f"must be {expected}, got {shown(value)}{_remark(errors, value)}"


def _expected(error: Mapping[str, Any]) -> str:
    if error["type"] == "literal_error":
        choices = _choices(error)
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    words = _EXPECTED.get(error["type"])
    context = {name: f"{v:g}" for name, v in error.get("ctx", {}).items() if isinstance(v, (int, float))}
    return words.format(**context) if words else str(error["msg"])


def _choices(error: Mapping[str, Any]) -> list[str]:
    return [choice.strip("'") for choice in re.split(r", | or ", str(error["ctx"]["expected"]))]


def _remark(errors: list[Mapping[str, Any]], value: Any) -> str:
    """Return a likely cause: quotes around a number, or a misspelled choice."""
    if value is None and errors[0]["type"] == "model_type":
        return "; leave the line out for the defaults"
    if not isinstance(value, str):
        return ""
    if any(error["type"] in ("int_type", "float_type", "bool_type") for error in errors):
        return "; leave out the quotes" if not isinstance(strict_yaml.plain(value), (str, type(None))) else ""
    choices = [choice for error in errors if error["type"] == "literal_error" for choice in _choices(error)]
    close = difflib.get_close_matches(value.lower().replace("-", "_"), choices, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
