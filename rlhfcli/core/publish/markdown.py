"""Escaping untrusted text in Markdown, so that names of models, files and columns never become links or tags."""

from __future__ import annotations

import re

from rlhfcli.words import visible

_ACTIVE = re.compile(r"([\\`*\[\]<>|#!~&$]|(?<!\w)_|_(?!\w))")


def plain(text: str) -> str:
    """Escape text within a line or a cell of a table.

    Args:
        text: Any text; its line breaks become spaces.
    """
    return _ACTIVE.sub(r"\\\1", _one_line(text))


def code(text: str, *, cell: bool = False) -> str:
    """Format text as code within a line; backticks inside it do not end the code.

    Args:
        text: Any text; its line breaks become spaces.
        cell: The code is in a table, where vertical bars must be escaped even in code.
    """
    line = _one_line(text)
    if cell:
        line = line.replace("|", "\\|")
    fence = _longer_than("`", line, 1)
    pad = " " if line[:1] == "`" or line[-1:] == "`" or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str, language: str = "") -> str:
    """Format text as a block of code; fences inside it do not end the block.

    Args:
        text: Any text.
        language: The language to highlight.
    """
    fence = _longer_than("`", text, 3)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split("\n")).replace("\t", " "))


def _longer_than(sign: str, text: str, least: int) -> str:
    longest = max(map(len, re.findall(f"{sign}+", text)), default=0)
    return sign * (least if longest < least else longest + 1)
