"""Write the examples of the prepared data into Arrow files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.store.split import Part
from rlhfcli.files.run_layout import Phase

_BATCH = 1024  # rows of a record batch
_IDS = pa.list_(pa.int32())
_SCHEMAS: dict[Phase, Any] = {
    "sft": pa.schema([("ids", _IDS), ("spans", _IDS), ("origin", pa.string())]),
    "reward": pa.schema(
        [("prompt", _IDS), ("answers", pa.list_(_IDS)), ("order", pa.list_(pa.int16())),
         ("margins", pa.list_(pa.float32())), ("kind", pa.string()), ("origin", pa.string())]
    ),
}  # fmt: skip


def file_name(phase: Phase, part: Part) -> str:
    """Return the name of the file with the examples of a phase and part.

    Args:
        phase: The phase.
        part: ``train`` or ``validation``.
    """
    return f"{phase}_{part}.arrow"


class RowWriter:
    """Writes rows into an Arrow file, a record batch at a time.

    Args:
        path: The file; it is replaced.
        schema: The columns of the file.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row.

        Args:
            row: A value for each column.
        """
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows and the footer."""
        self._flush()
        self._writer.close()
        self._file.close()

    def abandon(self) -> None:
        """Close the file without completing it."""
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
        folder: An existing folder.
        phase: The phase, which decides the kind of example.
        part: ``train`` or ``validation``.
    """

    def __init__(self, folder: Path, phase: Phase, part: Part) -> None:
        super().__init__(folder / file_name(phase, part), _SCHEMAS[phase])

    def write(self, example: EncodedDialogue | EncodedPreference, origin: str) -> None:
        """Add an example.

        Args:
            example: An example of the writer's phase.
            origin: The place of its row, for messages of later phases.
        """
        if isinstance(example, EncodedDialogue):
            flat = [border for span in example.spans for border in span]
            self.add((example.ids, flat, origin))
        else:
            order = [index for pair in example.order for index in pair]
            self.add((example.prompt, example.answers, order, example.margins, example.kind, origin))
