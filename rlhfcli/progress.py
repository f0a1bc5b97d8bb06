"""How the inner packages report their progress, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Sink(Protocol):
    """Receives the progress of long work; ``console`` has sinks that show it."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Enclose a named part that takes a while and cannot be counted, such as loading a model.

        Args:
            name: For people.
        """

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Begin work that can be counted; work may begin inside other work.

        Args:
            title: For people.
            total: Number of units.
            unit: Their name, in the plural.
            done: Units that were finished before, where the work is resumed.
        """

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Report how far the work is that began last.

        Args:
            done: Units that are finished in all.
            metrics: The newest figures: ``loss``, ``learning_rate`` …
        """

    def end(self) -> None:
        """End the work that began last."""

    def note(self, text: str) -> None:
        """Report something that stays on the screen.

        Args:
            text: One line.
        """

    def warn(self, text: str) -> None:
        """Report something that the user may want to change.

        Args:
            text: One line.
        """


class Silent:
    """A sink that shows nothing."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Show nothing.

        Args:
            name: For people.
        """
        return nullcontext()

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        """Show nothing.

        Args:
            title: For people.
            total: Number of units.
            unit: Their name, in the plural.
            done: Units that were finished before.
        """

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show nothing.

        Args:
            done: Units that are finished in all.
            metrics: The newest figures.
        """

    def end(self) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing.

        Args:
            text: One line.
        """

    def warn(self, text: str) -> None:
        """Show nothing.

        Args:
            text: One line.
        """
