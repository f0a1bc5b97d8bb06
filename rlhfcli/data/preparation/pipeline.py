"""The per-row pipeline: convert, deduplicate, assign, encode, write, count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import Encoder, EncodingResult
from rlhfcli.data.preparation.duplicates import DuplicateFilter
from rlhfcli.data.preparation.overlap import PromptWriter
from rlhfcli.data.reading.rows import Unreadable, check_readable
from rlhfcli.data.shapes.formats import Example, Shape, shape_of
from rlhfcli.data.sources.shaping import Shaping, convert_row
from rlhfcli.data.sources.sources import Stream
from rlhfcli.data.store.counts import DUPLICATES, SourceCount, short_reason
from rlhfcli.data.store.prepared import REJECTED
from rlhfcli.data.store.split import (
    PARTS,
    Part,
    assigned_phase,
    conversation_key,
    part_of,
    place_of,
    position,
    prompt_key,
    row_key,
)
from rlhfcli.data.store.statistics import PartStatistics
from rlhfcli.data.store.writers import Writer
from rlhfcli.errors import DataError
from rlhfcli.files.run_layout import PHASES, Phase
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import DataSection, SourceSection

_REASONS = 5  # reported where no row can be used
_START = 200  # characters of a rejected row that are written
Item = TypeVar("Item")
Located = tuple[Any, Origin]


class _Filtered(Exception):
    """The recipe filters this row out; nothing is wrong with it."""


@dataclass
class _UsableRow:
    """A row that was converted, and what the recipe does with it.

    Args:
        raw: The row as it was read.
        example: The dialogue or preference that it became.
        place: The position of its conversation in [0, 1), from ``split.place_of``.
        part: ``train`` or ``validation``.
        copies: The number of times that it is written.
        phases: The phases that train on it.
    """

    raw: Any
    example: Example
    place: float
    part: Part
    copies: int
    phases: list[Phase]

    @property
    def turns(self) -> int:
        """The number of its turns, the answer included."""
        return len(_as_dialogue(self.example).turns)


class RowPipeline:
    """Processes the rows of all sources, and writes the files of a store. A context manager.

    Args:
        data: The recipe's section.
        encoder: The encoder of dialogues and preferences.
        folder: An existing folder, into which the files are written.
        sink: Shows the progress.
    """

    def __init__(self, data: DataSection, encoder: Encoder, folder: Path, sink: Sink) -> None:
        self.counts: list[SourceCount] = []
        self.statistics = {f"{phase}_{part}": PartStatistics() for phase in PHASES for part in PARTS}
        self._data = data
        self._encoder = encoder
        self._sink = sink
        self._seen: dict[Phase, DuplicateFilter] = {phase: DuplicateFilter(data.duplicates) for phase in PHASES}
        self._first_lost = ""
        self._writers = {(phase, part): Writer(folder, phase, part) for phase in PHASES for part in PARTS}
        self._prompts = PromptWriter(folder)
        self._rejected = (folder / REJECTED).open("w", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> RowPipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        with ExitStack() as stack:
            stack.callback(self._rejected.close)
            for file in (self._prompts, *self._writers.values()):
                stack.callback(file.close if kind is None else file.abandon)

    def take(self, source: SourceSection, streams: Sequence[Stream]) -> None:
        """Process the rows of one source.

        Args:
            source: The recipe's entry.
            streams: The files of the source.

        Raises:
            DataError: A file cannot be used, or none of its rows.
        """
        count = SourceCount(source.path)
        self.counts.append(count)
        self._first_lost = ""
        done, total = 0, sum(stream.meter.size for stream in streams)
        self._sink.begin(f"preparing {Path(source.path).name}", total, streams[0].meter.unit)
        shaping = Shaping(source, count.columns)
        for stream in streams:
            before = count.read
            for chunk, shapes in shaping.chunks(stream.rows, stream.name):
                count.read += len(chunk)
                self._take_chunk(chunk, shapes, source, count)
                self._sink.advance(min(total, done + stream.meter.done), {"rows": count.read})
            done += stream.meter.size
            if count.read == before and source.limit is None:
                stream.meter.remark = f"{stream.name} has no rows"
        self._sink.end()
        shaping.finish()
        unusable = sum(number for reason, number in count.dropped.items() if reason not in DUPLICATES)
        if count.read and unusable == count.read and self._first_lost:
            raise self._none_left(count)

    def _none_left(self, count: SourceCount) -> DataError:
        """Return the error that no row can be used: the most common reasons, and a remedy for the first."""
        (reason, rows_with_it), *others = count.dropped.most_common(_REASONS)
        fits = "tokens" not in reason and "after cutting" not in reason
        what = f"none of the {count.read} rows can be used; {rows_with_it} of them: {reason}"
        what += "".join(f"\n{rows} of them: {other}" for other, rows in others)
        return DataError(
            what,
            where=self._first_lost,
            hint="Is this the file, and the format, that you mean?" if fits else "Raise data.max_length.",
        )

    # --- one chunk ------------------------------------------------------------------------------------------

    def _take_chunk(
        self, chunk: list[Located], shapes: tuple[Shape, ...], source: SourceSection, count: SourceCount
    ) -> None:
        rows = [row for raw, origin in chunk if (row := self._row(raw, origin, shapes, source, count)) is not None]
        both = self._encoder.encode([(row.example, "sft" in row.phases, "reward" in row.phases) for row in rows])
        for row, (sft, reward) in zip(rows, both, strict=True):
            results: dict[Phase, EncodingResult[Any]] = {}
            if sft is not None:
                results["sft"] = sft
            if reward is not None:
                results["reward"] = reward
            self._settle(row, results, count)

    def _row(
        self, raw: Any, origin: Origin, shapes: tuple[Shape, ...], source: SourceSection, count: SourceCount
    ) -> _UsableRow | None:
        """Convert a row and choose the phases that train on it; count it and return ``None`` if there are none."""
        try:
            row = check_readable(raw)
            shape = shape_of(row, shapes)
            if shape.name not in count.shapes:
                count.shapes.append(shape.name)
            example, unread = convert_row(row, shape, origin, count.columns)
            key = row_key(example) if self._data.split_by == "row" else conversation_key(example)
            wanted, copies = self._wanted(example, key, source)
            phases = self._not_seen(example, wanted, count, unread)
        except RowProblem as problem:
            self._drop(count, raw, origin, str(problem), invalid=problem.invalid)
            return None
        except _Filtered as reason:
            count.dropped[str(reason)] += 1
            return None
        part = part_of(key, self._data.validation)
        return _UsableRow(raw, example, place_of(key), part, copies if part == "train" else 1, phases)

    def _wanted(self, example: Example, key: str, source: SourceSection) -> tuple[list[Phase], int]:
        """Return the phases that the recipe gives a row to, at least one, and how often it is used, at least once."""
        wanted: list[Phase] = [phase for phase in PHASES if source.phase in ("both", phase)]
        if isinstance(example, Dialogue):
            wanted = [phase for phase in wanted if phase == "sft"]
            if not wanted:
                raise _Filtered("a dialogue, in a source for the reward phase only")
        if self._data.phase_split is not None:
            share = assigned_phase(key, self._data.phase_split)
            wanted = [phase for phase in wanted if phase == share]
            if not wanted:
                raise _Filtered(f"kept for the {share} phase (phase_split)")
        copies = _copies(example, source.weight)
        if copies == 0:
            raise _Filtered(f"outside the share that weight {source.weight} takes")
        return wanted, copies

    def _not_seen(self, example: Example, wanted: list[Phase], count: SourceCount, unread: str) -> list[Phase]:
        """Return the phases to which this example is new, at least one; SFT compares only the best answer."""
        said = {phase: _as_dialogue(example) if phase == "sft" else example for phase in wanted}
        found = {phase: self._seen[phase].add(each, unread) for phase, each in said.items()}
        phases = [phase for phase, reason in found.items() if reason is None]
        reasons = [reason for reason in found.values() if reason is not None]
        if not phases:
            raise RowProblem(reasons[-1], invalid=False)
        for phase, reason in found.items():
            if reason is not None:
                count.phases[phase].dropped[reason] += 1
        return phases

    def _settle(self, row: _UsableRow, results: dict[Phase, EncodingResult[Any]], count: SourceCount) -> None:
        """Write the results of encoding a row, and count it."""
        origin = row.example.origin
        for phase, outcome in results.items():
            if outcome.example is None:
                continue
            tally = count.phases[phase]
            tally.cut += outcome.cut
            tally.merged += outcome.merged
            tally.parts[row.part] += row.copies * (1 + len(outcome.earlier))
            tally.divided += bool(outcome.earlier)
            for example in (*outcome.earlier, outcome.example) * row.copies:
                self._writers[phase, row.part].write(example, str(origin))
                self.statistics[f"{phase}_{row.part}"].add(example, row.turns)
            self.statistics[f"{phase}_{row.part}"].conversations.add(row.place)
        failed = {phase: outcome for phase, outcome in results.items() if outcome.example is None}
        if len(failed) == len(results):
            lost = failed.get("reward") or failed["sft"]
            for phase in failed:
                count.phases[phase].lost += 1
            self._drop(count, row.raw, origin, lost.reason, invalid=lost.invalid)
            return
        count.kept += 1
        if row.part == "train":
            self._prompts.write(row.example, origin)
        count.cut += any(outcome.cut for outcome in results.values())
        for phase, outcome in failed.items():
            count.phases[phase].dropped[short_reason(outcome.reason)] += 1
            self._reject(row.raw, origin, outcome.reason, phase, invalid=outcome.invalid)

    # --- rows that are not used -----------------------------------------------------------------------------

    def _drop(self, count: SourceCount, raw: Any, origin: Origin, reason: str, *, invalid: bool) -> None:
        """Count a row that no phase can use, and list it among the rejected rows."""
        count.dropped[short_reason(reason)] += 1
        count.invalid += invalid
        self._first_lost = self._first_lost or str(origin)
        self._reject(raw, origin, reason, invalid=invalid)

    def _reject(self, raw: Any, origin: Origin, reason: str, phase: str = "", *, invalid: bool = True) -> None:
        """List a row among the rejected rows."""
        text = raw.start if isinstance(raw, Unreadable) else json.dumps(raw, ensure_ascii=False, default=str)
        line = {"file": origin.source, "row": origin.row, "phase": phase, "reason": reason, "fault": invalid}
        self._rejected.write(json.dumps(line | {"start": text[:_START]}, ensure_ascii=False) + "\n")


def _as_dialogue(example: Example) -> Dialogue:
    return example if isinstance(example, Dialogue) else example.preferred()


def _copies(example: Example, weight: float) -> int:
    """Return how often a row is used: the integer part of the weight, and once more for a fixed share of the rows."""
    whole = int(weight)
    if whole == weight:
        return whole
    answers = example.answers if isinstance(example, Preference) else (example.turns[example.last_answer].content,)
    return whole + (position("\x1e".join((prompt_key(example), *answers)), "weight") < weight - whole)
