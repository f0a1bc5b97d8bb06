"""What every benchmark is: a reader of its files, and the rule by which its leaderboard turns scores into figures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rlhfcli.data.dialogues.dialogue import Origin, Turn
from rlhfcli.data.dialogues.message import read_turns
from rlhfcli.data.dialogues.turns import RowProblem, check_characters, describe_type
from rlhfcli.data.reading.file_names import KNOWN, is_data_file
from rlhfcli.data.reading.files import read_rows
from rlhfcli.data.reading.rows import check_readable
from rlhfcli.errors import DataError
from rlhfcli.evaluation.benchmarks.figures import Figures
from rlhfcli.words import counted, shortened

Row = Mapping[str, Any]
Scores = Sequence[float]
_DESCRIPTIONS = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)  # of the datasets library


@dataclass(frozen=True)
class Item:
    """A prompt with candidate answers; each answer is scored once.

    Args:
        id: The benchmark's own name for it.
        subset: The finest part that the benchmark reports.
        prompt: The conversation so far.
        answers: The candidates.
        right: Indices of the right candidates.
        pairs: Comparisons ``(better, worse)`` that count, as indices; empty if all right against all wrong ones count.
        group: A second label: the half of the benchmark, or the model that wrote the answers.
    """

    id: str
    subset: str
    prompt: tuple[Turn, ...]
    answers: tuple[str, ...]
    right: tuple[int, ...] = (0,)
    pairs: tuple[tuple[int, int], ...] = ()
    group: str = ""

    def comparisons(self) -> list[tuple[int, int]]:
        """Return ``(better, worse)`` of all comparisons that count, as indices of answers."""
        wrong = [k for k in range(len(self.answers)) if k not in self.right]
        return list(self.pairs) or [(better, worse) for better in self.right for worse in wrong]


class Benchmark(ABC):
    """A benchmark of reward models.

    Attributes:
        name: Its name on the command line and in files.
        title: Its name in texts.
        source: Where its files come from.
        columns: The columns by which its rows are known.
        size: Number of items of all its files; ``None`` if that is not known.
        tie_rule: What it makes of a right and a wrong answer with the same score.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    size: ClassVar[int | None] = None
    tie_rule: ClassVar[str] = "a tie counts as wrong"

    def recognise(self, row: Row) -> bool:
        """Return whether a row is one of this benchmark.

        Args:
            row: As it was read from a file.
        """
        return all(column in row for column in self.columns)

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Choose the files to read of those in a folder.

        Args:
            files: All data files of the folder, sorted.
        """
        return list(files)

    @abstractmethod
    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the items of a row; none if the benchmark does not count it.

        Args:
            row: A row that ``recognise`` knows.
            file: Its file.

        Raises:
            RowProblem: A value is missing or of another type.
        """

    @abstractmethod
    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute the leaderboard's figures.

        Args:
            items: Items, at least one.
            scores: A finite score for each answer of each item.
        """

    def read(self, path: Path, skipped: list[str] | None = None) -> list[Item]:
        """Read the benchmark's files.

        Args:
            path: A file, or a folder of files as it was downloaded.
            skipped: Receives place and reason of rows that cannot be used; without it they are an error.

        Returns:
            At least one item.

        Raises:
            DataError: A file cannot be read, is no file of this benchmark, or has no items.
        """
        read: list[Item] = []
        for file in self.files(data_files(path)):
            for row, origin in read_rows(file):
                try:
                    read += self._items(check_readable(row), file, origin)
                except RowProblem as problem:
                    if skipped is None:
                        raise DataError(str(problem), where=str(origin), hint="Download the file again.") from None
                    skipped.append(f"{origin}: {problem}")
        if not read:
            raise DataError(f"{self.title} has no items here", where=str(path), hint=f"Get it: {self.source}.")
        return read

    def figures(self, items: Sequence[Item], scores: Sequence[Scores | None]) -> Figures:
        """Compute the benchmark's figures from the scores of all answers.

        Args:
            items: As ``read`` returns them.
            scores: For each item a score for each answer; ``None``, or a score that is not finite, if the item could
                not be scored: it is left out, and a note counts it.

        Returns:
            Figures with notes on what is not comparable with the leaderboard.

        Raises:
            ValueError: An item has another number of scores than answers.
            DataError: No item was scored.
        """
        scored = [
            (item, own)
            for item, own in zip(items, scores, strict=True)
            if own is not None and all(map(math.isfinite, own))
        ]
        for item, own in scored:
            if len(own) != len(item.answers):
                raise ValueError(f"{item.id}: {len(own)} scores for {len(item.answers)} answers")
        if not scored:
            raise DataError(f"no item of {self.title} could be scored", hint="Is this a reward model?")
        figures = self.rule([item for item, _ in scored], [own for _, own in scored])
        ties = sum(any(own[i] == own[j] for i, j in item.comparisons()) for item, own in scored)
        notes = (*self._notes(items, {id(item) for item, _ in scored}), *figures.notes)
        return replace(figures, benchmark=self.name, ties=ties, tie_rule=self.tie_rule, notes=notes)

    def _items(self, row: Any, file: Path, origin: Origin) -> list[Item]:
        if not isinstance(row, Mapping) or not self.recognise(row):
            has = shortened(list(map(str, row)), 12) if isinstance(row, Mapping) else describe_type(row)
            what = f"this is no row of {self.title}: it has {has}"
            hint = f"{self.title} has {', '.join(self.columns)} ({self.source})."
            raise DataError(what, where=str(origin), hint=hint)
        return [replace(item, id=item.id or origin.row) for item in self.items(row, file)]

    def _notes(self, items: Sequence[Item], scored: set[int]) -> Iterator[str]:
        unscored = [item.id for item in items if id(item) not in scored]
        if unscored:
            count = f"{len(unscored):,} of {counted(len(items), 'item')}"
            yield f"{count} could not be scored and are left out: {shortened(unscored)}"
        if self.size is not None and len(items) != self.size:
            there = f"{counted(len(items), 'item')} instead of {self.size:,}"
            yield f"the file is not the complete benchmark ({there}): not comparable with the leaderboard"


def data_files(path: Path) -> list[Path]:
    """List the data files of a path.

    Args:
        path: A file or a folder.

    Returns:
        The file itself, or all data files below the folder, sorted; at least one.

    Raises:
        DataError: Nothing is there.
    """
    if not path.is_dir():
        if path.exists():
            return [path]
        raise DataError(
            "there is no such file or folder", where=str(path), hint="Benchmarks are read from local files."
        )
    found = sorted(file for file in path.rglob("*") if file.is_file() and is_data_file(file))
    visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    files = [file for file in visible if file.name not in _DESCRIPTIONS]
    if not files:
        raise DataError("the folder holds no data files", where=str(path), hint=KNOWN)
    return files


def text(row: Row, key: str) -> str:
    """Return a text of a row; it may be empty, since models sometimes answer nothing.

    Args:
        row: The row, or an object in it.
        key: Its key.

    Raises:
        RowProblem: It is missing or no text.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise RowProblem(f"{key} is {describe_type(value)}, not text" if key in row else f"{key} is missing")
    return check_characters(value, key)


def texts(row: Row, key: str, count: int | None = None) -> tuple[str, ...]:
    """Return a list of texts of a row.

    Args:
        row: The row.
        key: Its key.
        count: The number of texts that it must have; ``None``: at least one.

    Raises:
        RowProblem: It is missing, no list of texts, or of another length.
    """
    value = row.get(key)
    if not isinstance(value, list):
        raise RowProblem(f"{key} is {describe_type(value)}, not a list of texts" if key in row else f"{key} is missing")
    if len(value) != count if count is not None else not value:
        raise RowProblem(f"{key} has {counted(len(value), 'answer')} instead of {count or 'at least one'}")
    return tuple(text({key: each}, key) for each in value)


def user(content: str) -> tuple[Turn, ...]:
    """Return a prompt of one turn.

    Args:
        content: The user's text.
    """
    return (Turn("user", content),)


def conversation(value: Any, what: str) -> tuple[Turn, ...]:
    """Return a prompt from a text or from a list of messages.

    Args:
        value: The value in the row.
        what: The name of its column.

    Raises:
        RowProblem: It is neither.
    """
    return user(check_characters(value, what)) if isinstance(value, str) else read_turns(value, what)
