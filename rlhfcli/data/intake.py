"""The way of each row: converted, compared with those before it, placed, encoded, written, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rlhfcli.data.counts import DUPLICATE, PHASES, Phase, SourceCount, TokenCount, short_reason
from rlhfcli.data.dialogue import Dialogue, Origin, Preference
from rlhfcli.data.encode import Encoder, Outcome
from rlhfcli.data.formats import Example, Shape, convert, detect_shape, named_shapes
from rlhfcli.data.sources import Stream
from rlhfcli.data.split import PARTS, Part, part_of, position, prompt_key, share_of
from rlhfcli.data.store import REJECTED, Writer
from rlhfcli.data.turns import RowProblem
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import Data, Source

_CHUNK = 512  # rows that are encoded together
_FIRST = 10  # rows that show what shape a file has
_START = 200  # characters of a rejected row that are written down
Item = TypeVar("Item")
Located = tuple[Any, Origin]


class _NotWanted(Exception):
    """The recipe does not want this row; the row is not to blame."""


@dataclass
class _Row:
    """A usable row on its way.

    Args:
        raw: As it was read.
        example: What it became.
        part: Training or validation.
        copies: How often it is written to the training part.
        phases: Who is to learn from it.
    """

    raw: Any
    example: Example
    part: Part
    copies: int
    phases: list[Phase]


class Intake:
    """Takes all rows of all sources, and writes the files of a store. A context manager.

    Args:
        data: The recipe's section.
        encoder: For the tokens.
        folder: Exists; the files go there.
    """

    def __init__(self, data: Data, encoder: Encoder, folder: Path) -> None:
        self.counts: list[SourceCount] = []
        self.tokens = {f"{phase}_{part}": TokenCount() for phase in PHASES for part in PARTS}
        self._data = data
        self._encoder = encoder
        self._seen: dict[Phase, set[bytes]] = {phase: set() for phase in PHASES}
        self._first_fault = ""
        self._writers = {(phase, part): Writer(folder, phase, part) for phase in PHASES for part in PARTS}
        self._rejected = (folder / REJECTED).open("w", encoding="utf-8")

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        with ExitStack() as stack:
            stack.callback(self._rejected.close)
            for writer in self._writers.values():
                stack.callback(writer.close if kind is None else writer.abandon)

    def take(self, source: Source, streams: Sequence[Stream]) -> None:
        """Take the rows of one source.

        Args:
            source: The recipe's entry.
            streams: Its files.

        Raises:
            DataError: A file cannot be used, or none of its rows.
        """
        count = SourceCount(source.path)
        self.counts.append(count)
        self._first_fault = ""
        shapes = named_shapes(source.format, source.path)
        for stream in streams:
            first = list(islice(stream.rows, _FIRST))
            if not first:
                continue
            shape = detect_shape([row for row, _ in first], shapes, stream.name)
            if shape.name not in count.shapes:
                count.shapes.append(shape.name)
            for chunk in _chunks(chain(first, stream.rows)):
                count.read += len(chunk)
                self._take_chunk(chunk, shape, source, count)
        if count.read and count.faults == count.read:
            reason, rows_with_it = count.dropped.most_common(1)[0]
            raise DataError(
                f"none of the {count.read} rows can be used; {rows_with_it} of them: {reason}",
                where=self._first_fault,
                hint="Is this the file, and the format, that you mean?",
            )

    def check(self) -> None:
        """Look whether every part of every phase that was given rows has some.

        Raises:
            DataError: A part is empty.
        """
        for phase in PHASES:
            sizes = {part: self.tokens[f"{phase}_{part}"].rows for part in PARTS}
            lost = sum(sum(count.phases[phase].dropped.values()) for count in self.counts)
            if not any(sizes.values()) and not lost:
                continue  # nobody gave this phase anything; it says so when it is asked for
            for part, size in sizes.items():
                if size == 0:
                    raise self._empty(phase, part, sizes, lost)
        if not any(count.rows for count in self.tokens.values()):
            raise DataError("no row is left for any phase", where="data.sources", hint="Check weight, limit and phase.")

    def _empty(self, phase: Phase, part: Part, sizes: dict[Part, int], lost: int) -> DataError:
        usable, share = sum(sizes.values()), self._data.validation
        lost += sum(count.dropped[DUPLICATE] for count in self.counts)
        rows = "1 row" if usable == 1 else f"{usable} rows"
        what = f"the {part} part of the {phase} phase is empty: {rows} can be used, {lost} cannot"
        if not usable:
            hint = "Give other rows, or another data.max_length or data.truncation."
            return DataError(what, where="data.sources", hint=hint)
        if usable == 1:
            return DataError(what, where="data.sources", hint="Give more rows.")
        better = share / 2 if part == "train" else min(0.5, max(2 * share, 5 / usable))
        return DataError(
            f"{what}, and a share of {share} of the prompts is for validation",
            where="data.validation",
            hint=f"Give more rows, or another share: --set data.validation={better:.2g}",
        )

    # --- one chunk ------------------------------------------------------------------------------------------

    def _take_chunk(self, chunk: list[Located], shape: Shape, source: Source, count: SourceCount) -> None:
        rows = [row for raw, origin in chunk if (row := self._row(raw, origin, shape, source, count)) is not None]
        for_sft = [row for row in rows if "sft" in row.phases]
        for_reward = [row for row in rows if "reward" in row.phases]
        dialogues = self._encoder.dialogues([_as_dialogue(row.example) for row in for_sft])
        pairs = self._encoder.pairs([row.example for row in for_reward if isinstance(row.example, Preference)])
        results: dict[int, dict[Phase, Outcome[Any]]] = {id(row): {} for row in rows}
        for row, dialogue in zip(for_sft, dialogues, strict=True):
            results[id(row)]["sft"] = dialogue
        for row, pair in zip(for_reward, pairs, strict=True):
            results[id(row)]["reward"] = pair
        for row in rows:
            self._settle(row, results[id(row)], count)

    def _row(self, raw: Any, origin: Origin, shape: Shape, source: Source, count: SourceCount) -> _Row | None:
        """Convert a row and decide who learns from it; ``None`` and a count where nobody does."""
        try:
            example = convert(raw, shape, origin)
            wanted, copies = self._wanted(example, source)
            phases = self._not_seen(example, wanted)
            if not phases:
                raise RowProblem(DUPLICATE)
        except RowProblem as problem:
            self._drop(count, raw, origin, str(problem))
            return None
        except _NotWanted as reason:
            count.dropped[str(reason)] += 1
            return None
        for phase in set(wanted) - set(phases):
            count.phases[phase].dropped[DUPLICATE] += 1
        return _Row(raw, example, part_of(prompt_key(example), self._data.validation), copies, phases)

    def _wanted(self, example: Example, source: Source) -> tuple[list[Phase], int]:
        """The phases that the recipe gives a row to, and how often; at least one and once."""
        wanted: list[Phase] = [phase for phase in PHASES if source.phase in ("both", phase)]
        if isinstance(example, Dialogue):
            wanted = [phase for phase in wanted if phase == "sft"]
            if not wanted:
                raise _NotWanted("a dialogue, in a source for the reward phase only")
        if self._data.phase_split is not None:
            share = share_of(prompt_key(example), self._data.phase_split)
            wanted = [phase for phase in wanted if phase == share]
            if not wanted:
                raise _NotWanted(f"kept for the {share} phase (phase_split)")
        copies = _copies(_digest(example), source.weight)
        if copies == 0:
            raise _NotWanted(f"outside the share that weight {source.weight} takes")
        return wanted, copies

    def _not_seen(self, example: Example, wanted: list[Phase]) -> list[Phase]:
        """The phases that have not met this example; of a pair, SFT only sees the chosen answer."""
        found: list[Phase] = []
        for phase in wanted:
            digest = _digest(_as_dialogue(example) if phase == "sft" else example)
            if digest not in self._seen[phase]:
                self._seen[phase].add(digest)
                found.append(phase)
        return found

    def _settle(self, row: _Row, results: dict[Phase, Outcome[Any]], count: SourceCount) -> None:
        """Write what came of a row, and count it."""
        origin = row.example.origin
        for phase, outcome in results.items():
            tally = count.phases[phase]
            if outcome.example is None:
                tally.dropped[short_reason(outcome.reason)] += 1
                continue
            tally.cut += outcome.cut
            for _ in range(row.copies if row.part == "train" else 1):
                self._writers[phase, row.part].write(outcome.example, str(origin))
                self.tokens[f"{phase}_{row.part}"].add(outcome.example)
                tally.parts[row.part] += 1
        failed = {phase: outcome.reason for phase, outcome in results.items() if outcome.example is None}
        if len(failed) == len(results):
            self._drop(count, row.raw, origin, failed.get("reward") or failed["sft"])
            return
        count.kept += 1
        count.cut += any(outcome.cut for outcome in results.values())
        for phase, reason in failed.items():
            self._reject(row.raw, origin, reason, phase)

    # --- rows that are not used -----------------------------------------------------------------------------

    def _drop(self, count: SourceCount, raw: Any, origin: Origin, reason: str) -> None:
        """Count a row that is itself to blame, and write it down."""
        count.dropped[short_reason(reason)] += 1
        count.faults += reason != DUPLICATE
        self._first_fault = self._first_fault or str(origin)
        self._reject(raw, origin, reason)

    def _reject(self, raw: Any, origin: Origin, reason: str, phase: str = "") -> None:
        start = json.dumps(raw, ensure_ascii=False, default=str)[:_START]
        line = {"file": origin.source, "row": origin.row, "phase": phase, "reason": reason, "start": start}
        self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")


def _as_dialogue(example: Example) -> Dialogue:
    return example if isinstance(example, Dialogue) else example.preferred()


def _digest(example: Example) -> bytes:
    """A hash of all that an example says."""
    if isinstance(example, Preference):
        said = [
            "pair",
            *(f"{turn.role}\x1f{turn.content}" for turn in example.prompt),
            example.chosen,
            example.rejected,
        ]
    else:
        said = [f"{turn.role}\x1f{turn.content}" for turn in example.turns]
    return blake2b("\x1e".join(said).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _copies(digest: bytes, weight: float) -> int:
    """How often a row is used: the whole part of the weight, and once more for a stable share of the rows."""
    whole = int(weight)
    return whole + (position(digest.hex(), "weight") < weight - whole)


def _chunks(rows: Iterator[Located]) -> Iterator[list[Located]]:
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk
