"""Foreign text in Markdown: a name of a model, a file or a column is shown as it is, and is never a link or a tag."""

from __future__ import annotations

import re

from rlhfcli.words import visible

_ACTIVE = re.compile(r"([\\`*\[\]<>|#!~&$]|(?<!\w)_|_(?!\w))")


def plain(text: str) -> str:
    """Text within a line or a cell of a table.

    Args:
        text: Anything; its line breaks become spaces.
    """
    return _ACTIVE.sub(r"\\\1", _one_line(text))


def code(text: str, *, cell: bool = False) -> str:
    """Text as code within a line; its own backticks do not end it.

    Args:
        text: Anything; its line breaks become spaces.
        cell: It stands in a table, where even code may not hold a bar.
    """
    line = _one_line(text)
    if cell:
        line = line.replace("|", "\\|")
    fence = _longer_than("`", line, 1)
    pad = " " if line[:1] == "`" or line[-1:] == "`" or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str, language: str = "") -> str:
    """Text as a block of code; its own fences do not end it.

    Args:
        text: Anything.
        language: For colours.
    """
    fence = _longer_than("`", text, 3)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split("\n")).replace("\t", " "))


def _longer_than(sign: str, text: str, least: int) -> str:
    longest = max(map(len, re.findall(f"{sign}+", text)), default=0)
    return sign * (least if longest < least else longest + 1)
