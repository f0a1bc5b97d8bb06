"""JSON values; what JSON allows and no row can hold is refused with its reason, in a list without its neighbours."""

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
    """JSON in order that is no row of anybody's."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice with different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise Refused(f"the key {name} stands twice in an object, with different values")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str) -> Any:
    """Read a JSON text.

    Args:
        text: One value, with white space around it.

    Returns:
        The value.

    Raises:
        JSONDecodeError: It is not JSON.
        Refused: It is, but cannot be used.
    """
    end = len(text.rstrip())
    value, at = _value(text, len(text) - len(text.lstrip()))
    if at != end:
        raise json.JSONDecodeError("Extra data", text, at + len(text[at:]) - len(text[at:].lstrip()))
    return value


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at a place of a text, and where it ends."""
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
    """The first key that cannot be written down, however deep."""
    if isinstance(value, dict):
        found = next((name for name in value if _HALF.search(name)), "")
        return found or next(filter(None, map(_half_name, value.values())), "")
    return next(filter(None, map(_half_name, value)), "") if isinstance(value, list) else ""


def is_json(text: str) -> bool:
    """Whether a text is JSON, usable or not."""
    try:
        parse(text)
    except Refused:
        return True
    except ValueError:
        return False
    return True


def elements(text: str) -> Iterator[Any]:
    """Read the elements of a list one by one, because one of them cannot be used.

    Args:
        text: A list.

    Yields:
        Each; ``Unreadable`` for one that cannot be used.

    Raises:
        JSONDecodeError: It is not JSON, behind the one that cannot be used.
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
    """Objects behind each other, each over several lines.

    Args:
        text: All of them.

    Yields:
        Each; ``Unreadable`` for one that cannot be used.

    Raises:
        JSONDecodeError: It is not JSON.
    """
    at = _skip(text, 0)
    while at < len(text):
        value, end = _usable(text, at)
        yield value
        at = _skip(text, end)


def _usable(text: str, at: int) -> tuple[Any, int]:
    """The value at a place, or what stands for it, and where it ends."""
    try:
        return _value(text, at)
    except Refused as refused:
        end = _end_of(text, at)
        return Unreadable(str(refused), text[at : min(end, at + START)].rstrip()), end


def _skip(text: str, at: int) -> int:
    """The place of the next character that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _end_of(text: str, at: int) -> int:
    """Where the value that begins at a place ends, without reading it."""
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
