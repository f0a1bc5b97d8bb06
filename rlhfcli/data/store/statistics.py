"""Measure the lengths of a part's examples, and the padding that other ways to batch them would compute."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference

Ints = npt.NDArray[np.int64]
QUANTILES = {"min": 0, "p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "p99": 99, "max": 100}
_BINS = 15  # of a histogram, up to the 99th percentile
_STEPS = (10, 15, 20, 25, 30, 40, 50, 60, 80)  # widths of bins that people can count in, times a power of ten
_SEED = 0  # of the shuffled order; which one it is does not matter, but it must be the same every time


class PartStatistics:
    """Collects the token counts of one phase and part, some bytes for each example.

    Attributes:
        conversations: The position of each conversation that has an example here, from ``split.place_of``.
    """

    def __init__(self) -> None:
        self.conversations: set[float] = set()
        self._given = array("i")  # tokens that all branches share: of a dialogue all of them
        self._branches = array("H")  # answers of each preference; 0 marks a dialogue, whose branch is itself
        self._answers = array("i")  # tokens of each answer of each preference
        self._turns: Counter[int] = Counter()
        self._comparisons = 0
        self._said = 0

    def add(self, example: EncodedDialogue | EncodedPreference, turns: int) -> None:
        """Count an example.

        Args:
            example: The example that is written to the store.
            turns: The number of turns of its row, the answer included.
        """
        self._turns[turns] += 1
        if isinstance(example, EncodedDialogue):
            self._given.append(len(example.ids))
            self._branches.append(0)
            self._comparisons += 1
            self._said += sum(end - start for start, end in example.spans)
            return
        self._given.append(len(example.prompt))
        self._branches.append(len(example.answers))
        self._answers.extend(map(len, example.answers))
        self._comparisons += len(example.order)

    def as_json(self, batch_size: int, max_length: int) -> dict[str, Any]:
        """Return the figures for the manifest.

        Args:
            batch_size: The number of examples in a batch, for the padding.
            max_length: The longest sequence that the recipe allows, in tokens.

        Returns:
            ``rows``, ``conversations``, ``comparisons`` (of dialogues: rows), ``sequences``, ``tokens`` (each prompt of
            a preference once), ``answer`` (tokens of the assistant), ``longest``; ``lengths``, ``histogram`` and
            ``turns``; ``padding``: the tokens that each way to batch computes. Without rows the last four are empty.
        """
        given, branches = np.array(self._given, dtype=np.int64), np.array(self._branches, dtype=np.int64)
        answers = np.array(self._answers, dtype=np.int64)
        counts, longest = np.maximum(branches, 1), given.copy()
        if answers.size:
            starts = (np.cumsum(branches) - branches)[branches > 0]
            longest[branches > 0] += np.maximum.reduceat(answers, starts)
        tokens = int(given.sum() + answers.sum())
        figures: dict[str, Any] = {
            "rows": len(given),
            "conversations": len(self.conversations),
            "comparisons": self._comparisons,
            "sequences": int(counts.sum()),
            "tokens": tokens,
            "answer": self._said + int(answers.sum()),
            "longest": int(longest.max(initial=0)),
        }
        if not len(given):
            return figures | {"lengths": {}, "histogram": {}, "turns": {}, "padding": {}}
        lengths = {"sequence": _quantiles(longest)}
        if answers.size:
            lengths |= {"prompt": _quantiles(given[branches > 0]), "answer": _quantiles(answers)}
        figures |= {"lengths": lengths, "histogram": _histogram(longest), "turns": self._turn_figures()}
        packed = int((given * counts).sum() + answers.sum())
        batches = {"max_length": int(counts.sum()) * max_length, **_padded_batches(longest, counts, batch_size)}
        batches |= {"packed": packed, "tree": tokens}
        figures["padding"] = {"batch_size": batch_size} | {name: _cost(n, tokens) for name, n in batches.items()}
        return figures

    def _turn_figures(self) -> dict[str, Any]:
        values = sorted(self._turns)
        repeated = np.repeat(np.array(values, dtype=np.int64), [self._turns[value] for value in values])
        return {"quantiles": _quantiles(repeated), "counts": {str(value): self._turns[value] for value in values}}


def _quantiles(values: Ints) -> dict[str, int]:
    """Return quantiles without interpolation, so that each is a value that occurs."""
    found = np.percentile(values, list(QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(QUANTILES, found, strict=True)}


def _histogram(values: Ints) -> dict[str, list[int]]:
    """Count values in bins of one width; bin ``k`` contains those with ``edges[k] <= value < edges[k + 1]``.

    The last bin ends with the largest value: it takes the few that would make all the others too wide.
    """
    low, high, top = int(values.min()), int(np.percentile(values, 99, method="inverted_cdf")), int(values.max())
    width = next(width for width in _widths() if high // width - low // width < _BINS)
    starts = range(low // width * width, (high // width + 2) * width, width)
    edges = [*(start for start in starts if start <= top), top + 1]
    counts, _ = np.histogram(values, edges)
    return {"edges": edges, "counts": [int(count) for count in counts]}


def _widths() -> Iterator[int]:
    yield from range(1, 7)
    yield 8
    power = 1
    while True:
        yield from (step * power for step in _STEPS)
        power *= 10


def _padded_batches(longest: Ints, counts: Ints, batch_size: int) -> dict[str, int]:
    """Return the tokens of padded batches, with rows in a shuffled order and with rows sorted by length."""
    orders = {
        "longest": np.random.default_rng(_SEED).permutation(len(longest)),
        "sorted": np.argsort(longest, kind="stable"),
    }
    return {name: _padded(longest, counts, batch_size, order) for name, order in orders.items()}


def _padded(longest: Ints, counts: Ints, batch_size: int, order: Ints) -> int:
    """Return the tokens of padded batches of examples in an order: each branch is as long as the batch's longest."""
    starts = np.arange(0, len(order), batch_size)
    heights = np.add.reduceat(counts[order], starts)
    return int((heights * np.maximum.reduceat(longest[order], starts)).sum())


def _cost(tokens: int, computed: int) -> dict[str, Any]:
    return {"tokens": tokens, "factor": round(tokens / max(1, computed), 3)}
