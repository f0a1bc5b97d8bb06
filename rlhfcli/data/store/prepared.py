"""Read the prepared data: Arrow files, whose examples are made from memory-mapped tokens when they are asked for."""

from __future__ import annotations

import json
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc

from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.store.manifest import REMAKE, read_manifest
from rlhfcli.errors import DataError

REJECTED = "rejected_rows.jsonl"
_SHOWN = 20  # rows that an error names
Encoded = TypeVar("Encoded")


class _Stored(Sequence[Encoded], Generic[Encoded]):
    """The examples of an Arrow file; each is made when it is asked for.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
            raise DataError(f"a file of the prepared data {what}", where=str(path), hint=REMAKE) from None
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        batch, row = self._find(index)
        return self._example(batch, row)

    def origin(self, index: int) -> str:
        """Return the place of an example's row: file and line.

        Args:
            index: The index of the example.
        """
        batch, row = self._find(index)
        return str(batch.column("origin")[row].as_py())

    def _find(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect_right(self._ends, index)
        return self._batches[number], index - (self._ends[number - 1] if number else 0)

    @abstractmethod
    def _example(self, batch: Any, row: int) -> Encoded:
        """Make one example."""


class StoredDialogues(_Stored[EncodedDialogue]):
    """The examples of SFT."""

    def _example(self, batch: Any, row: int) -> EncodedDialogue:
        borders = _list(batch, "spans", row)
        return EncodedDialogue(_list(batch, "ids", row), list(zip(borders[::2], borders[1::2], strict=True)))

    def trees(self) -> Iterator[tuple[Any, list[range]]]:
        """Yield the token ids of each dialogue as they lie in the file, without branches; see ``MicroBatches``."""
        for batch in self._batches:
            for ids in _arrays(batch.column("ids")):
                yield ids, [range(0)]


class StoredPairs(_Stored[EncodedPreference]):
    """The examples of reward models."""

    def trees(self) -> Iterator[tuple[Any, list[range]]]:
        """Yield the prompt of each preference as it lies in the file, and the length of each of its answers."""
        for batch in self._batches:
            answers = batch.column("answers")
            lengths = [range(length) for length in pc.list_value_length(answers.values).to_pylist()]
            borders = pairwise(answers.offsets.to_pylist())
            for prompt, (begin, end) in zip(_arrays(batch.column("prompt")), borders, strict=True):
                yield prompt, lengths[begin:end]

    def _example(self, batch: Any, row: int) -> EncodedPreference:
        answers = batch.column("answers")
        begin, end = answers.offsets[row].as_py(), answers.offsets[row + 1].as_py()
        order, margins = _list(batch, "order", row), _slice(batch.column("margins"), row)
        return EncodedPreference(
            _list(batch, "prompt", row),
            [_slice(answers.values, k) for k in range(begin, end)],
            list(zip(order[::2], order[1::2], strict=True)),
            margins,
            batch.column("kind")[row].as_py(),
        )


class DataStore:
    """The prepared data of a recipe.

    Args:
        folder: The folder that ``prepare`` wrote.

    Raises:
        FileNotFoundError: There is none.
        DataError: Its manifest is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_manifest(folder, sealed=False)  # ``prepare`` has checked it

    def dialogues(self, part: str) -> StoredDialogues:
        """Return the examples of SFT; they are read from disk when they are asked for.

        Args:
            part: ``train`` or ``validation``.

        Raises:
            DataError: There are none.
        """
        found = StoredDialogues(self.folder / f"sft_{part}.arrow")
        if not found:
            raise DataError(
                "no rows for the SFT phase",
                where="data.sources",
                hint="Add a source of dialogues or preferences whose phase is both or sft, and give sft a "
                "share of data.phase_split where there is one.",
            )
        return found

    def pairs(self, part: str) -> StoredPairs:
        """Return the examples of the reward phase; they are read from disk when they are asked for.

        Args:
            part: ``train`` or ``validation``.

        Raises:
            DataError: There are none.
        """
        found = StoredPairs(self.folder / f"reward_{part}.arrow")
        if not found:
            raise DataError(
                "no preference rows for the reward phase",
                where="data.sources",
                hint="Add a source with chosen and rejected answers whose phase is both or reward, and give "
                "reward a share of data.phase_split where there is one.",
            )
        return found

    def refuse_invalid(self) -> None:
        """Raise an error if a row was invalid.

        Raises:
            DataError: There were such rows; it names the first with their reasons.
        """
        with (self.folder / REJECTED).open(encoding="utf-8") as file:
            invalid = [row for line in file if (row := json.loads(line))["fault"]]
        if invalid:
            shown = [f"{row['file']}: {row['row']}: {row['reason']}" for row in invalid[:_SHOWN]]
            rows = "1 row" if len(invalid) == 1 else f"{len(invalid):,} rows"
            more = [f"... and {len(invalid) - _SHOWN:,} more"] if len(invalid) > _SHOWN else []
            raise DataError(
                "\n".join([f"{rows} cannot be used:", *shown, *more]),
                where=str(self.folder / REJECTED),
                hint="Fix these rows, or take them out; without --strict the others are used.",
            )


def _list(batch: Any, column: str, row: int) -> list[int]:
    return _slice(batch.column(column), row)


def _arrays(column: Any) -> Iterator[Any]:
    """Yield the lists of a column as views."""
    values = column.values.to_numpy()
    return (values[begin:end] for begin, end in pairwise(column.offsets.to_pylist()))


def _slice(array: Any, row: int) -> list[Any]:
    """Return one of an array's lists without Arrow's scalars, which are slow."""
    begin, end = array.offsets[row].as_py(), array.offsets[row + 1].as_py()
    values: list[Any] = array.values[begin:end].to_numpy().tolist()
    return values
