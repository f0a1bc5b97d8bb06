"""``metrics.jsonl``: one line per logging window and per evaluation, none doubled and none missing after a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rlhfcli.core.ranks import rank
from rlhfcli.errors import OutputError


def read_metrics(file: Path) -> Iterator[dict[str, float]]:
    """The lines of a ``metrics.jsonl``, up to one that a killed process has left torn."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                return


def cut_back(file: Path, count: int) -> list[dict[str, float]]:
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
        with _told(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}")
            try:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    return kept


def append(file: Path, line: dict[str, float]) -> None:
    """Add a line; only the first rank does.

    Args:
        file: The first call makes it.
        line: Figures by name.

    Raises:
        OutputError: The file cannot be written.
    """
    if rank() == 0:
        with _told(file), file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            where=str(file),
            hint="Is the disk full? What is finished, and every checkpoint, is whole.",
        ) from None
