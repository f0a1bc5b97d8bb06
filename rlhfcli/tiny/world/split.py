"""The split of questions, names and lists into training and test: by a stable hash, never by a seed."""

from __future__ import annotations

import zlib
from typing import Literal

Split = Literal["train", "test"]

HELD_OUT_PERCENT = 15


def split_of(key: str) -> Split:
    """Assign a question, name or list to training or test.

    Args:
        key: Its identifier, for example ``"capital|2|France"`` (skill, template, argument).

    Returns:
        ``"test"`` for about 15 % of all keys, the same in every run and on every machine.
    """
    # crc32 of similar strings differs mostly in few bits: the multiplication spreads them.
    spread = (zlib.crc32(key.encode()) * 2654435761) & 0xFFFFFFFF
    return "test" if (spread >> 8) % 100 < HELD_OUT_PERCENT else "train"
