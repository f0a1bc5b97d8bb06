"""The prepared data on disk: Arrow files that are read where they lie, and a manifest."""

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
from rlhfcli.data.store.split import Part
from rlhfcli.errors import DataError
from rlhfcli.files.run_layout import Phase

REJECTED = "rejected_rows.jsonl"
_SHOWN = 20  # rows that an error names
_BATCH = 1024  # rows that are written, and found, together
_IDS = pa.list_(pa.int32())
_SCHEMAS: dict[Phase, Any] = {
    "sft": pa.schema([("ids", _IDS), ("spans", _IDS), ("origin", pa.string())]),
    "reward": pa.schema(
        [("prompt", _IDS), ("answers", pa.list_(_IDS)), ("order", pa.list_(pa.int16())),
         ("margins", pa.list_(pa.float32())), ("kind", pa.string()), ("origin", pa.string())]
    ),
}  # fmt: skip
Encoded = TypeVar("Encoded")


def file_name(phase: Phase, part: Part) -> str:
    """The name of the file with the examples of a phase and part."""
    return f"{phase}_{part}.arrow"


class RowWriter:
    """Writes rows into an Arrow file, some at a time.

    Args:
        path: The file; replaced.
        schema: Its columns.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row: a value for each column."""
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the file's end."""
        self._flush()
        self._writer.close()
        self._file.close()

    def abandon(self) -> None:
        """Let go of a file that is not wanted any more."""
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            self._rows = []


class Writer(RowWriter):
    """Writes the examples of one phase and part.

    Args:
        folder: Exists.
        phase: Which kind of example.
        part: Training or validation.
    """

    def __init__(self, folder: Path, phase: Phase, part: Part) -> None:
        super().__init__(folder / file_name(phase, part), _SCHEMAS[phase])

    def write(self, example: EncodedDialogue | EncodedPreference, origin: str) -> None:
        """Add an example.

        Args:
            example: Of the writer's phase.
            origin: Where its row stands, for messages of later phases.
        """
        if isinstance(example, EncodedDialogue):
            flat = [border for span in example.spans for border in span]
            self.add((example.ids, flat, origin))
        else:
            order = [index for pair in example.order for index in pair]
            self.add((example.prompt, example.answers, order, example.margins, example.kind, origin))


class _Stored(Sequence[Encoded], Generic[Encoded]):
    """Examples in an Arrow file; each is made when it is asked for.

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
        """Where an example comes from: file and line.

        Args:
            index: Its number.
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
    """What SFT learns from."""

    def _example(self, batch: Any, row: int) -> EncodedDialogue:
        borders = _list(batch, "spans", row)
        return EncodedDialogue(_list(batch, "ids", row), list(zip(borders[::2], borders[1::2], strict=True)))

    def trees(self) -> Iterator[tuple[Any, list[range]]]:
        """The token ids of each dialogue as they lie in the file, and that nothing follows; see ``MicroBatches``."""
        for batch in self._batches:
            for ids in _arrays(batch.column("ids")):
                yield ids, [range(0)]


class StoredPairs(_Stored[EncodedPreference]):
    """What the reward model learns from."""

    def trees(self) -> Iterator[tuple[Any, list[range]]]:
        """The prompt of each preference as it lies in the file, and how long each of its answers is."""
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
        folder: Where ``prepare`` wrote it.

    Raises:
        FileNotFoundError: There is none.
        DataError: Its manifest is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_manifest(folder, sealed=False)  # ``prepare`` has checked it

    def dialogues(self, part: str) -> StoredDialogues:
        """What SFT learns from.

        Args:
            part: ``train`` or ``validation``.

        Returns:
            Examples that are read from disk when they are asked for.

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
        """What the reward model learns from.

        Args:
            part: ``train`` or ``validation``.

        Returns:
            Examples that are read from disk when they are asked for.

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
        """Make it an error if a row could not be used and is itself to blame.

        Raises:
            DataError: Names the first such rows with their reasons.
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
    """The lists of a column, which stay where they are."""
    values = column.values.to_numpy()
    return (values[begin:end] for begin, end in pairwise(column.offsets.to_pylist()))


def _slice(array: Any, row: int) -> list[Any]:
    """One of an array's lists without a detour over Arrow's scalars, which are slow."""
    begin, end = array.offsets[row].as_py(), array.offsets[row + 1].as_py()
    values: list[Any] = array.values[begin:end].to_numpy().tolist()
    return values
