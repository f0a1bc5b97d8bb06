"""Work that can be counted and its figures, in words."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

_WORDS = {
    "rows": "{:,.0f} rows",
    "loss": "loss {:.4f}",
    "accuracy": "accuracy {:.3f}",
    "eval_loss": "validation loss {:.4f}",
    "eval_nll": "validation nll {:.4f}",
    "eval_accuracy": "validation accuracy {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "checkpoint": "checkpoint {:,.0f}",
}
_OCCASIONAL = ("eval_loss", "eval_nll", "eval_accuracy")  # shown with the unit after which they were measured


class Work:
    """Work that can be counted, and its newest figures.

    Args:
        title: For people.
        total: Number of units.
        unit: Their name, in the plural.
        done: Units that an earlier session has finished.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self.figures: dict[str, float] = {}
        self.bar: TaskID | None = None
        self._measured: dict[str, int] = {}  # after how many units each of the occasional figures was measured
        self._started = time.monotonic()
        self._last_line = -1.0

    def advance(self, done: int, figures: Mapping[str, float]) -> None:
        """Record how far the work is, and the newest figures.

        Args:
            done: Units that are finished in all.
            figures: Those that are new.
        """
        self.done = done
        self.figures.update(figures)
        self._measured |= {name: done for name in _OCCASIONAL if name in figures}

    def due(self, every: float) -> bool:
        """Return whether a line is due: the first at once, then one for each interval.

        Args:
            every: Seconds between two lines.
        """
        now = time.monotonic()
        if self._last_line >= 0 and now - self._last_line < every:
            return False
        self._last_line = now
        return True

    def figures_text(self) -> str:
        """Return the figures in words; an occasional one with the unit after which it was measured."""
        unit = self.unit.removesuffix("s")
        return figures_text(
            self.figures, {name: f"{unit} {at:,}" for name, at in self._measured.items() if at != self.done}
        )

    def line(self) -> str:
        """Return the progress as one line."""
        passed, made = time.monotonic() - self._started, self.done - self._first
        left = f"{clock(passed / made * (self.total - self.done))} left" if made > 0 else ""
        parts = (f"{self.title} {self.done:,}/{self.total:,} {self.unit}", self.figures_text(), left)
        return " · ".join(part for part in parts if part)

    def summary(self) -> str:
        """Return the line that stays when the work is over."""
        passed = clock(time.monotonic() - self._started)
        begin = f" (from {self.unit.removesuffix('s')} {self._first + 1:,})" if self._first else ""
        parts = (f"{self.title}: {self.done:,} of {self.total:,} {self.unit}{begin} in {passed}", self.figures_text())
        return " · ".join(part for part in parts if part)


def figures_text(figures: Mapping[str, float], measured: Mapping[str, str] | None = None) -> str:
    """Write loss, learning rate, speed and memory in words.

    Args:
        figures: Metrics as the training loop names them; ``memory_gb`` is this process's peak if left out.
        measured: When figures were measured that are older than the rest, such as ``step 20``.

    Returns:
        "loss 1.234 · validation loss 1.301 (step 20) · learning rate 1.0e-04 · 12,345 tokens/s · 1.2 GB".
    """
    parts = []
    for name, form in _WORDS.items():
        if name in figures:
            when = (measured or {}).get(name)
            parts.append(form.format(figures[name]) + (f" ({when})" if when else ""))
    if figures:
        parts.append(f"{figures.get('memory_gb', _peak_memory_gb()):.1f} GB")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Write a time as ``0:42``, ``12:03`` or ``1:02:03``.

    Args:
        seconds: The time.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _peak_memory_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
