"""Read Parquet and Arrow tables as the rows that a JSON file of the same data would give.

The datasets library keeps values of mixed types as JSON text (its feature ``Json``, Arrow's extension type
``arrow.json``), which are read back here; binary columns without a type are text where they are UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from rlhfcli.data.reading.rows import Meter, Rows, number_rows, printable_path
from rlhfcli.errors import DataError

_AGAIN = "Download or export it again."
_BATCH = 1024
Read = Callable[[Any], Any]


def parquet_rows(path: Path, packed: IO[bytes] | None, meter: Meter) -> Rows:
    """Read the rows of a Parquet file.

    Args:
        path: The file.
        packed: Its unpacked content, if the file is compressed as a whole.
        meter: Measures the progress of the reading.

    Yields:
        Each row with its number.

    Raises:
        DataError: The file is not a Parquet file, or is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        # Whole compressed files are no use for Parquet, which reads from its end; but they do occur.
        file = parquet.ParquetFile(pyarrow.BufferReader(packed.read()) if packed else path)
        rows = _rows(file.schema_arrow, file.iter_batches(_BATCH))
        yield from number_rows(path, rows, file.metadata.num_rows, meter)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged("a Parquet", path, error) from None


def arrow_rows(path: Path, packed: IO[bytes] | None, meter: Meter) -> Rows:
    """Read the rows of a file in either of Arrow's formats: datasets writes caches and ``save_to_disk`` as streams.

    Args:
        path: The file.
        packed: Its unpacked content, if the file is compressed as a whole.
        meter: Measures the progress of the reading.

    Yields:
        Each row with its number.

    Raises:
        DataError: The file is not an Arrow file, or is damaged.
    """
    import pyarrow

    try:
        content = pyarrow.BufferReader(packed.read()) if packed else pyarrow.memory_map(str(path))
        try:
            table = pyarrow.ipc.open_stream(content).read_all()  # its columns stay in the file
        except pyarrow.ArrowInvalid:
            content.seek(0)
            table = pyarrow.ipc.open_file(content).read_all()
        parts = (table.slice(begin, _BATCH) for begin in range(0, len(table), _BATCH))
        yield from number_rows(path, _rows(table.schema, parts), len(table), meter)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged("an Arrow", path, error) from None


def _rows(schema: Any, parts: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the parts of a table."""
    features = _features(schema)
    reads = {field.name: read for field in schema if (read := _reader(field.type, features.get(field.name)))}
    for part in parts:
        part.validate(full=True)  # Arrow trusts the offsets in a file, and ends the process where they are wrong
        for row in part.to_pylist():
            for name, read in reads.items():
                row[name] = read(row[name])
            yield row


def _features(schema: Any) -> dict[str, Any]:
    """Return the features of the columns that the datasets library has recorded."""
    try:
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _reader(kind: Any, feature: Any) -> Read | None:
    """Return a function that converts a value of a type to that of JSON; ``None`` if it needs no conversion."""
    import pyarrow.types as are

    says = feature if isinstance(feature, dict) else {}
    if says.get("_type") == "Json" or getattr(kind, "extension_name", "") == "arrow.json":
        return _from_json
    if hasattr(kind, "storage_type"):
        kind = kind.storage_type
    if are.is_dictionary(kind):
        kind = kind.value_type
    if are.is_binary(kind) or are.is_large_binary(kind) or are.is_binary_view(kind):
        return _from_bytes
    if are.is_map(kind):
        return _of_map(_reader(kind.item_type, None) or _as_is)
    if are.is_struct(kind):
        within = says.get("feature", says)
        fields = [kind.field(number) for number in range(kind.num_fields)]
        reads = {each.name: _reader(each.type, _within(within, each.name)) for each in fields}
        return _of_struct({name: read for name, read in reads.items() if read is not None})
    if hasattr(kind, "value_type"):  # all kinds of lists
        element = feature[0] if isinstance(feature, list) and feature else says.get("feature")
        read = _reader(kind.value_type, element)
        return None if read is None else _of_list(read)
    return None


def _within(feature: Any, name: str) -> Any:
    """Return the feature of a field of a struct; for an object of lists it is that of the list's elements."""
    return feature.get(name) if isinstance(feature, dict) else None


def _as_is(value: Any) -> Any:
    return value


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _from_bytes(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _of_list(read: Read) -> Read:
    return lambda value: value if value is None else [read(item) for item in value]


def _of_map(read: Read) -> Read:
    return lambda value: value if value is None else {str(key): read(item) for key, item in value}


def _of_struct(reads: dict[str, Read]) -> Read | None:
    if not reads:
        return None

    def read(value: Any) -> Any:
        return value if value is None else {name: reads.get(name, _as_is)(item) for name, item in value.items()}

    return read


def _damaged(kind: str, path: Path, error: Exception) -> DataError:
    return DataError(
        f"not {kind} file: {(str(error).splitlines() or ['damaged'])[0]}", where=printable_path(path), hint=_AGAIN
    )
