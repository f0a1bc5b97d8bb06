"""Parse JSON values; a value that JSON allows and a row cannot have is rejected alone, without its neighbours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rlhfcli.data.reading.rows import Unreadable

START = 1000  # characters of a row that cannot be used
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


class Refused(ValueError):
    """Valid JSON that cannot be used as a row."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; reject it if a key occurs twice with different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise Refused(f"the key {name} stands twice in an object, with different values")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str) -> Any:
    """Parse a JSON text.

    Args:
        text: The text of one value; white space may surround it.

    Returns:
        The value.

    Raises:
        JSONDecodeError: The text is not JSON.
        Refused: It is JSON that cannot be used.
    """
    end = len(text.rstrip())
    value, at = _value(text, len(text) - len(text.lstrip()))
    if at != end:
        raise json.JSONDecodeError("Extra data", text, at + len(text[at:]) - len(text[at:].lstrip()))
    return value


def _value(text: str, at: int) -> tuple[Any, int]:
    """Parse the value that begins at a place of a text; also return where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise Refused("its lists and objects are nested too deeply") from None
    except (json.JSONDecodeError, Refused):
        raise
    except ValueError:  # Python's limit for whole numbers
        raise Refused("a number has too many digits") from None
    if _HALF_ESCAPE.search(text, at, end) and (name := _half_name(value)):
        raise Refused(f"the name of a column holds half a character, {name!a}")
    return value, end


def _half_name(value: Any) -> str:
    """Return the first key, at any depth, that has half a surrogate pair."""
    if isinstance(value, dict):
        found = next((name for name in value if _HALF.search(name)), "")
        return found or next(filter(None, map(_half_name, value.values())), "")
    return next(filter(None, map(_half_name, value)), "") if isinstance(value, list) else ""


def is_json(text: str) -> bool:
    """Return whether a text is JSON, usable or not.

    Args:
        text: The text.
    """
    try:
        parse(text)
    except Refused:
        return True
    except ValueError:
        return False
    return True


def elements(text: str) -> Iterator[Any]:
    """Parse the elements of a list one by one, because one of them cannot be used.

    Args:
        text: The text of the list.

    Yields:
        Each element; ``Unreadable`` for one that cannot be used.

    Raises:
        JSONDecodeError: The text behind that element is not JSON.
    """
    at = _skip(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        value, end = _usable(text, at)
        yield value
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if _skip(text, at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, at + 1))


def objects(text: str) -> Iterator[Any]:
    """Parse concatenated objects, each of which may take several lines.

    Args:
        text: The text of all objects.

    Yields:
        Each object; ``Unreadable`` for one that cannot be used.

    Raises:
        JSONDecodeError: The text is not JSON.
    """
    at = _skip(text, 0)
    while at < len(text):
        value, end = _usable(text, at)
        yield value
        at = _skip(text, end)


def _usable(text: str, at: int) -> tuple[Any, int]:
    """Parse the value at a place, or return an ``Unreadable`` for it; also return where it ends."""
    try:
        return _value(text, at)
    except Refused as refused:
        end = _end_of(text, at)
        return Unreadable(str(refused), text[at : min(end, at + START)].rstrip()), end


def _skip(text: str, at: int) -> int:
    """Return the place of the next character that is not white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _end_of(text: str, at: int) -> int:
    """Return where the value that begins at a place ends, without parsing it."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token[0]
        if sign in "]}" or (sign == "," and depth == 0):
            if depth == 0:
                return token.start()
            depth -= 1
            if depth == 0:
                return token.end()
        depth += sign in "[{"
    return len(text)
