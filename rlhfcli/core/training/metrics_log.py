"""The figures of a training: one line per logging window and per evaluation, none doubled or missing after a resume.

They are written to ``metrics.jsonl``, and to the trackers that the recipe asks for (see ``trackers``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.core.training.trackers import Line, Tracker
from rlhfcli.errors import Interrupted, writing
from rlhfcli.files.atomic import write_text
from rlhfcli.files.run_layout import METRICS


class Journal:
    """Writes the lines of a phase, on the first rank alone. Leaving its block ends the session of every tracker.

    Args:
        folder: Folder of the phase.
        trackers: Take every line, too.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        self.file = folder / METRICS
        self._trackers = trackers
        self._begun: list[Tracker] = []

    def begin(self, count: int, seconds: float) -> list[Line]:
        """Keep the first lines and continue after them; see ``truncate``.

        Args:
            count: Number of lines when the checkpoint was written; 0 to begin again.
            seconds: Duration of the training until then.

        Returns:
            The lines that were kept.

        Raises:
            OutputError: A file cannot be written.
            UserError: A tracker refuses the login.
        """
        history = truncate(self.file, count)
        with _writing(self.file.parent):
            for tracker in self._trackers:
                tracker.begin(history, seconds)
                self._begun.append(tracker)
        return history

    def add(self, line: Line) -> None:
        """Add a line.

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
        failed = kind is not None and not issubclass(kind, Interrupted)
        with _writing(self.file.parent):
            while self._begun:
                self._begun.pop().end(failed=failed)


def read_metrics(file: Path) -> Iterator[Line]:
    """Read the lines of a ``metrics.jsonl`` up to the first one that is incomplete or no line of figures.

    Args:
        file: An existing file; a killed process may have left its last line incomplete.

    Yields:
        Figures by name.
    """
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


def truncate(file: Path, count: int) -> list[Line]:
    """Keep the first lines of a file; steps after the checkpoint are made again, and write theirs again.

    Args:
        file: ``metrics.jsonl``; need not exist.
        count: Number of lines when the checkpoint was written; 0 to begin again.

    Returns:
        The lines that were kept; fewer than ``count`` if some have been removed.

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
    """Append a line; only the first rank does.

    Args:
        file: ``metrics.jsonl``; made if it does not exist.
        line: Figures by name.

    Raises:
        OutputError: The file cannot be written.
    """
    if rank() == 0:
        with _writing(file), file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def _writing(file: Path) -> AbstractContextManager[None]:
    return writing(file, hint="What was finished before is whole.")
