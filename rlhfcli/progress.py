"""How the inner rooms tell what they are doing, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Sink(Protocol):
    """Takes what a long piece of work says about itself; ``console.TerminalSink`` shows it."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A named part that takes a while and cannot be counted ("loading the model"); timed."""

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Work of ``total`` units begins, or goes on after ``done`` of them."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """``done`` units in all are finished; ``metrics`` are the newest figures (loss, learning_rate, ...)."""

    def end(self) -> None:
        """The work that ``begin`` announced is over."""

    def note(self, text: str) -> None:
        """A line that stays on the screen."""


class Silent:
    """A sink that shows nothing: for tests, and for all ranks but the first."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Nothing."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
