"""Formatting of foreign text, sizes, shares and counts: the same in every message, table and page."""

from __future__ import annotations

from collections.abc import Sequence

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_BIDIRECTIONAL = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_BREAKS = (0x2028, 0x2029)
_SURROGATES = range(0xD800, 0xE000)  # bytes of a file name that are not UTF-8 arrive as these
_ESCAPED = (*_BIDIRECTIONAL, *_LINE_BREAKS, *_SURROGATES)
_VISIBLE = _CONTROL | _C1 | {code: f"\\u{code:04x}" for code in _ESCAPED}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def visible(text: str) -> str:
    """Replace control characters by visible signs, so that text cannot control a terminal or a page.

    Args:
        text: Of any origin.
    """
    return text.translate(_VISIBLE)


def has_control_characters(text: str) -> bool:
    """Return whether ``visible`` changes a text.

    Args:
        text: Of any origin.
    """
    return not text.isprintable() and any(ord(character) in _VISIBLE for character in text)


def size(count: float) -> str:
    """Format a size with three digits: ``870 bytes``, ``1.24 GB``, ``25.3 GB``.

    Args:
        count: Bytes. A gigabyte is 1e9 of them, as for disks.
    """
    power = 0
    while power < len(_UNITS) - 1 and abs(count) >= 999.5:
        count /= 1000
        power += 1
    if power == 0:
        return "1 byte" if count == 1 else f"{count:.0f} bytes"
    digits = 0 if abs(count) >= 99.95 else 1 if abs(count) >= 9.995 else 2
    return f"{count:.{digits}f} {_UNITS[power]}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share as ``36.8 %``.

    Args:
        share: A number from 0 to 1.
        digits: Decimal places.
    """
    return f"{100 * share:.{digits}f} %"


def span(first: str, last: str) -> str:
    """Format a range with both ends: ``507 – 1,493``; one number if both are equal.

    Args:
        first: Lower end.
        last: Upper end.
    """
    return first if first == last else f"{first} – {last}"


def counted(number: int, word: str) -> str:
    """Format a number of things: ``1 row``, ``12,000 rows``.

    Args:
        number: How many.
        word: The noun in the singular; its plural ends with s.
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Join names with commas; an ellipsis stands for those beyond the limit: ``a, b, c …``.

    Args:
        names: All names.
        most: How many are shown.
    """
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
