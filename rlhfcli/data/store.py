"""The prepared data on disk: Arrow files that are read where they lie, and a manifest."""

from __future__ import annotations

import json
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import pyarrow as pa

from rlhfcli.data.counts import Phase
from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.data.split import Part
from rlhfcli.errors import DataError

MANIFEST = "manifest.json"
REJECTED = "rejected_rows.jsonl"
_BATCH = 1024  # rows that are written, and found, together
_IDS = pa.list_(pa.int32())
_SCHEMAS: dict[Phase, Any] = {
    "sft": pa.schema([("ids", _IDS), ("spans", _IDS), ("origin", pa.string())]),
    "reward": pa.schema(
        [("prompt", _IDS), ("chosen", _IDS), ("rejected", _IDS), ("margin", pa.float32()),
         ("kind", pa.string()), ("origin", pa.string())]
    ),
}  # fmt: skip
Example = TypeVar("Example")


def file_name(phase: Phase, part: Part) -> str:
    """The name of the file with the examples of a phase and part."""
    return f"{phase}_{part}.arrow"


class Writer:
    """Writes the examples of one phase and part.

    Args:
        folder: Exists.
        phase: Which kind of example.
        part: Training or validation.
    """

    def __init__(self, folder: Path, phase: Phase, part: Part) -> None:
        self._schema = _SCHEMAS[phase]
        self._rows: list[tuple[Any, ...]] = []
        self._file = pa.OSFile(str(folder / file_name(phase, part)), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def write(self, example: EncodedDialogue | EncodedPair, origin: str) -> None:
        """Add an example.

        Args:
            example: Of the writer's phase.
            origin: Where its row stands, for messages of later phases.
        """
        if isinstance(example, EncodedDialogue):
            flat = [border for span in example.spans for border in span]
            self._rows.append((example.ids, flat, origin))
        else:
            self._rows.append((example.prompt, example.chosen, example.rejected, example.margin, example.kind, origin))
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


class _Stored(Sequence[Example], Generic[Example]):
    """Examples in an Arrow file; each is made when it is asked for.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
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
    def _example(self, batch: Any, row: int) -> Example:
        """Make one example."""


class StoredDialogues(_Stored[EncodedDialogue]):
    """What SFT learns from."""

    def _example(self, batch: Any, row: int) -> EncodedDialogue:
        borders = _list(batch, "spans", row)
        return EncodedDialogue(_list(batch, "ids", row), list(zip(borders[::2], borders[1::2], strict=True)))


class StoredPairs(_Stored[EncodedPair]):
    """What the reward model learns from."""

    def _example(self, batch: Any, row: int) -> EncodedPair:
        prompt, chosen, rejected = (_list(batch, name, row) for name in ("prompt", "chosen", "rejected"))
        return EncodedPair(
            prompt, chosen, rejected, batch.column("margin")[row].as_py(), batch.column("kind")[row].as_py()
        )


class Prepared:
    """The prepared data of a recipe.

    Args:
        folder: Where ``prepare`` wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))

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

    def summary(self) -> list[dict[str, Any]]:
        """One row for each source, for a table: path, shapes, read, kept, cut, dropped, and by phase."""
        return list(self.manifest["sources"])


def _list(batch: Any, column: str, row: int) -> list[int]:
    """A list without a detour over Arrow's scalars, which are slow."""
    array = batch.column(column)
    begin, end = array.offsets[row].as_py(), array.offsets[row + 1].as_py()
    values: list[int] = array.values[begin:end].to_numpy().tolist()
    return values
