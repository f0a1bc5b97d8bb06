"""How foreign text, sizes, shares and counts are written, in every message, table and page the same."""

from __future__ import annotations

_CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}
_C1 = {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # the order in which signs stand
_BREAKS = (0x2028, 0x2029)
_HALVES = range(0xD800, 0xE000)  # of a pair of UTF-16: bytes of a file name that are no UTF-8 arrive as these
_VISIBLE = _CONTROL | _C1 | {code: f"\\u{code:04x}" for code in (*_TURNING, *_BREAKS, *_HALVES)}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def visible(text: str) -> str:
    """Text that does nothing to a terminal or a page: control characters become signs for them."""
    return text.translate(_VISIBLE)


def hides(text: str) -> bool:
    """Whether ``visible`` changes a text."""
    return not text.isprintable() and any(ord(sign) in _VISIBLE for sign in text)


def size(count: float) -> str:
    """A size in the unit that suits it, with three digits: ``870 bytes``, ``1.24 GB``, ``25.3 GB``.

    Args:
        count: Bytes. A gigabyte is 1e9 of them, as disks and ``rlhf`` everywhere count.
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
    """A share as ``36.8 %``.

    Args:
        share: 1 is all.
        digits: Behind the point.
    """
    return f"{100 * share:.{digits}f} %"


def span(first: str, last: str) -> str:
    """A range of numbers, both ends included: ``507 – 1,493``."""
    return first if first == last else f"{first} – {last}"


def counted(number: int, word: str) -> str:
    """A number of things: ``1 row``, ``12,000 rows``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
