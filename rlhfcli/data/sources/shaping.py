"""Find the shape of a source's rows: rename columns as the recipe asks, choose the shape, join rows, convert them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any, TypeVar

from rlhfcli.data.dialogues.column_use import ColumnUse, WatchedRow
from rlhfcli.data.dialogues.columns import MissingStep, column_of, value_at
from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.reading.rows import Unreadable
from rlhfcli.data.shapes.formats import Example, Shape, convert, detect_shape, known_columns, named_shapes
from rlhfcli.data.shapes.row_joins import Join
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import SourceSection

_CHUNK = 512  # rows that are encoded together
_FIRST = 10  # rows that show what shape a file has
_FURTHER = 1000  # rows that show it if these do not
Located = tuple[Any, Origin]
Item = TypeVar("Item")


def convert_row(row: Any, shape: Shape, origin: Origin, use: ColumnUse) -> tuple[Example, str]:
    """Convert a row, and count which of its columns were read.

    Args:
        row: The row, after renaming and joining.
        shape: The shape of the row.
        origin: The place of the row.
        use: Counts the columns.

    Returns:
        The example, and the unread values of its row as text to compare rows by.

    Raises:
        RowProblem: The row cannot be used.
    """
    watched = WatchedRow(row) if isinstance(row, Mapping) else row
    example = convert(watched, shape, origin)
    return example, use.add(watched, example, joined=shape.join is not None)


class Shaping:
    """Finds the shapes of the rows of one source.

    Args:
        source: The recipe's entry.
        use: Counts the columns of rows that are joined.

    Raises:
        DataError: The recipe names a format or a column that no shape knows.
    """

    def __init__(self, source: SourceSection, use: ColumnUse) -> None:
        self._source = source
        self._use = use
        self._candidates = named_shapes(source.format, source.path)
        self._missing = set(source.columns.values())
        self._astray: dict[str, MissingStep] = {}  # paths, and where the last one that led nowhere ended
        self._columns: dict[str, None] = {}  # of the first rows, in their order
        self._check_targets()

    def chunks(self, rows: Iterator[Located], name: str) -> Iterator[tuple[list[Located], tuple[Shape, ...]]]:
        """Read the rows of a file.

        Args:
            rows: The rows of the file, with their places.
            name: The name of the file, for messages.

        Yields:
            Some hundred rows, with the shapes that they may have: first that of the file, then those that a row
            may have whose columns are null for the first (files that were joined).

        Raises:
            DataError: The rows fit no shape, or a column that the recipe names is misspelt.
        """
        rows = ((self._renamed(row), origin) for row, origin in rows)
        first = list(islice(rows, _FIRST))
        if not first:
            return
        self._check_spelling()
        try:
            shape = detect_shape([row for row, _ in first], self._candidates, name)
        except DataError as error:
            first += islice(rows, _FURTHER)
            shape, small = self._after_all(first, name, error)
            rows = map(_in_small_letters, rows) if small else rows
            first = [*map(_in_small_letters, first)] if small else first
        rows = chain(first, rows)
        shapes = (shape, *(each for each in self._candidates if each.join is None and each is not shape))
        for chunk in _chunks(rows if shape.join is None else self._joined(rows, shape.join)):
            yield chunk, shapes

    def _after_all(self, first: list[Located], name: str, error: DataError) -> tuple[Shape, bool]:
        """Find the shape of a file whose first rows do not show it, and whether its columns' names need lower case.

        Raises:
            DataError: None fits; or none of the rows can be read.
        """
        usable = [row for row, _ in first if isinstance(row, Mapping)]
        for row, origin in first:
            if not usable and isinstance(row, Unreadable):
                hint = "Is this the file that you mean?"
                raise DataError(f"none of its rows can be read; the first: {row.reason}", where=str(origin), hint=hint)
        for small in (False, True):
            rows = [_in_small_letters(each)[0] if small else each[0] for each in first]
            with suppress(DataError):
                return detect_shape(rows, self._candidates, name), small
        for missing in sorted(self._missing & set(self._astray)):
            raise self._no_column(missing)
        raise error

    def finish(self) -> None:
        """Check that the source had every column that the recipe renames.

        Raises:
            DataError: No row had one of them.
        """
        for missing in sorted(self._missing):
            raise self._no_column(missing)

    # --- the recipe's names ---------------------------------------------------------------------------------

    def _renamed(self, row: Any) -> Any:
        """Return a row with the names that shapes know."""
        columns = self._source.columns
        if not columns or not isinstance(row, Mapping):
            return row
        self._columns.update(dict.fromkeys(map(str, row)))
        found: dict[str, Any] = {}
        for known, name in columns.items():
            try:
                found[known] = value_at(row, name)
                self._missing.discard(name)
            except RowProblem as problem:  # this row lacks it
                if isinstance(problem, MissingStep):
                    self._astray[name] = problem
        taken = {name if name in row else column_of(name) for name in columns.values()}
        # What has a name that another column takes is not read, and named as such.
        others = {f"{name} (its own)" if name in found else name: row[name] for name in row if name not in taken}
        return others | found

    def _check_targets(self) -> None:
        known = known_columns(self._candidates)
        for name in self._source.columns:
            if name not in known:
                near = get_close_matches(name, sorted(known), 1)
                raise DataError(
                    f"columns: no shape reads a column {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
                    where=self._source.path,
                    hint="Write columns as {name that the shape knows: name in the file}; docs/data.md has the shapes.",
                )

    def _check_spelling(self) -> None:
        for missing in sorted(self._missing):
            if column_of(missing) not in self._columns and get_close_matches(missing, self._columns, 1):
                raise self._no_column(missing)

    def _no_column(self, name: str) -> DataError:
        known = next(known for known, source in self._source.columns.items() if source == name)
        near = get_close_matches(name, self._columns, 1)
        why = f"; did you mean {near[0]}?" if near else ""
        if name in self._astray:
            why = f": {_where_it_ends(self._astray[name], name)}"
        return DataError(
            f"columns: no row has {name!r}, which is to be read as {known}{why}",
            where=self._source.path,
            hint=f"The first rows have: {', '.join(self._columns) or 'no columns'}",
        )

    def _joined(self, rows: Iterator[Located], join: Join) -> Iterator[Located]:
        """Join rows, and count the columns of theirs that nobody reads."""

        def watched() -> Iterator[Located]:
            for row, origin in rows:
                self._use.add_unjoined(row, join.reads)
                yield row, origin

        return join(watched())


def _where_it_ends(step: MissingStep, path: str) -> str:
    """Describe the step of a path that leads nowhere, and the names in its place."""
    if not step.there:
        return str(step)
    wanted, *beyond = path.split(".")[len(step.reached) :]
    near = get_close_matches(wanted, step.there, 1)
    if near:
        return f"there is no {wanted}; did you mean {'.'.join((*step.reached, near[0], *beyond))}?"
    return f"there is no {wanted}, but {', '.join(step.there)}"


def _in_small_letters(located: Located) -> Located:
    """Return a row with its columns' names in lower case: spreadsheets have ``Prompt`` or ``CHOSEN``."""
    row, origin = located
    if not isinstance(row, Mapping):
        return located
    return {str(name).strip().lower(): value for name, value in row.items()}, origin


def _chunks(rows: Iterator[Item]) -> Iterator[list[Item]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk
