"""Which questions, names and lists belong to the test set: decided by a stable hash, never by a seed."""

from __future__ import annotations

import zlib
from typing import Literal

Split = Literal["train", "test"]

HELD_OUT_PERCENT = 15


def split_of(key: str) -> Split:
    """Say on which side of the train/test border a question, name or list falls.

    Args:
        key: what identifies it, for example ``"capital|2|France"`` (skill, template, argument).

    Returns:
        ``"test"`` for about 15 % of all keys, the same ones in every run and on every machine.
    """
    # crc32 of similar strings differs mostly in few bits: the multiplication spreads them.
    spread = (zlib.crc32(key.encode()) * 2654435761) & 0xFFFFFFFF
    return "test" if (spread >> 8) % 100 < HELD_OUT_PERCENT else "train"
