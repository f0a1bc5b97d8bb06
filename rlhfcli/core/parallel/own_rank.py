"""Which of several ranks this process is, as its launcher has written it into the environment. Loads no torch."""

from __future__ import annotations

import os


def world_size() -> int:
    """Return the number of ranks; 1 where this process is alone, whatever a shell has left in ``WORLD_SIZE``."""
    return max(1, _whole_number("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this rank; 0 where it is the only one, whatever a shell has left in ``RANK``."""
    return _whole_number("RANK", 0) if world_size() > 1 else 0


def _whole_number(variable: str, default: int) -> int:
    """Read a whole number from the environment; anything else counts as not set."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
