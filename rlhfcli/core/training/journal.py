"""The figures of a training: one line per logging window and per evaluation, none doubled or missing after a resume.

They stand in ``metrics.jsonl``; a recipe may ask for them elsewhere, too (see ``trackers``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.core.training.trackers import Line, Tracker, chosen
from rlhfcli.errors import Interrupted, writing
from rlhfcli.files.atomic import write_text
from rlhfcli.files.run_layout import METRICS
from rlhfcli.recipe.schema import Recipe


class Journal:
    """Writes the lines of a phase wherever the recipe wants them. Only the first rank does; leaving it ends a sitting.

    Args:
        recipe: Its ``logging.to`` says where.
        folder: Of the phase.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.file = folder / METRICS
        self._trackers: list[Tracker] = chosen(recipe, folder) if rank() == 0 else []
        self._begun: list[Tracker] = []

    def begin(self, count: int, seconds: float) -> list[Line]:
        """Go on after the first lines; see ``cut_back``.

        Args:
            count: Lines that there were when the checkpoint was written; 0 to begin anew.
            seconds: How long the training had taken then.

        Returns:
            These lines.

        Raises:
            OutputError: A file cannot be written.
            UserError: A tracker that is asked for lets nobody in.
        """
        history = cut_back(self.file, count)
        with _writing(self.file.parent):
            for tracker in self._trackers:
                tracker.begin(history, seconds)
                self._begun.append(tracker)
        return history

    def add(self, line: Line) -> None:
        """One more line.

        Args:
            line: Figures by name.

        Raises:
            OutputError: A file cannot be written.
        """
        append(self.file, line)
        with _writing(self.file.parent):
            for tracker in self._begun:
                tracker.add(line)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """No more lines in this sitting."""
        failed = kind is not None and not issubclass(kind, Interrupted)
        with _writing(self.file.parent):
            while self._begun:
                self._begun.pop().end(failed=failed)


def read_metrics(file: Path) -> Iterator[Line]:
    """The lines of a ``metrics.jsonl``, up to one that a killed process has left torn, or that holds something else."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                return
            if not _is_line(line):
                return
            yield line


def _is_line(line: object) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return False
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in line.values())


def cut_back(file: Path, count: int) -> list[Line]:
    """Keep the first lines of the file; what a killed process wrote after its checkpoint comes again.

    Args:
        file: Need not be there.
        count: Lines that it had when the checkpoint was written; 0 to begin anew.

    Returns:
        These lines; fewer than that where somebody has taken some out.

    Raises:
        OutputError: The file cannot be written.
    """
    kept = list(islice(read_metrics(file), count)) if count and file.exists() else []
    if rank() == 0:
        with _writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def append(file: Path, line: Line) -> None:
    """Add a line; only the first rank does.

    Args:
        file: The first call makes it.
        line: Figures by name.

    Raises:
        OutputError: The file cannot be written.
    """
    if rank() == 0:
        with _writing(file), file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def _writing(file: Path) -> AbstractContextManager[None]:
    return writing(file, hint="What was finished before is whole.")
