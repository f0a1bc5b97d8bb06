"""Cut the examples of a step into micro-batches that fit into memory.

With token trees the budget counts tokens, and examples that share much of their beginning go into the same micro-batch,
so that it is computed once. With padding the budget counts cells of a rectangle. In both, examples of similar size go
together, which keeps rectangles full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import pairwise
from typing import Any

import numpy as np

_SHARED = 1 / 4  # examples that share such a part of their tokens stay together, even if their sizes differ


class MicroBatches:
    """Cuts examples into micro-batches; records the size of each and how much it shares with others.

    Args:
        trees: For each example, the token ids of the beginning that its sequences share, as a list or an array; and the
            rest of each sequence, of which only the length counts.
        packed: Whether the model computes token trees.
    """

    def __init__(self, trees: Iterable[tuple[Any, Sequence[Sized]]], *, packed: bool) -> None:
        self.tokens: list[int] = []  # computed for each example, without padding
        self._sequences: list[int] = []
        self._longest: list[int] = []
        keys: list[bytes] = []
        for beginning, rests in trees:
            ends = [len(rest) for rest in rests]
            self.tokens.append(len(beginning) * (1 if packed else len(ends)) + sum(ends))
            self._sequences.append(len(ends))
            self._longest.append(len(beginning) + max(ends))
            if packed:
                keys.append(np.array(beginning, ">u4").tobytes())
        self._beginnings = PrefixIndex(keys) if packed else None

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Cut examples into micro-batches.

        Args:
            rows: Numbers of the examples, each once.
            budget: Tokens (cells, when padded) that fit at once; a larger example gets a micro-batch of its own.

        Returns:
            The rows of each micro-batch; each row is in one of them.
        """
        return self._rectangles(rows, budget) if self._beginnings is None else self._forests(rows, budget)

    def _rectangles(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Fill rectangles with examples in the order of their longest sequence."""
        batches: list[list[int]] = []
        sequences = longest = 0
        for row in sorted(rows, key=lambda row: -self._longest[row]):
            if not batches or longest * (sequences + self._sequences[row]) > budget:
                batches.append([])
                sequences, longest = 0, self._longest[row]
            batches[-1].append(row)
            sequences += self._sequences[row]
        return batches

    def _forests(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Fill rows of tokens with groups of related examples, the group with the largest example first."""
        batches: list[list[int]] = []
        used = math.inf  # as if the micro-batch before the first were full
        for group in sorted(self._related(rows), key=lambda group: -max(self.tokens[row] for row, _ in group)):
            whole = sum(self.tokens[row] - saved for row, saved in group)
            if used + whole > budget >= whole:
                used = math.inf
            for row, saved in group:
                if used + self.tokens[row] - saved > budget:
                    batches.append([])
                    used = saved = 0
                batches[-1].append(row)
                used += self.tokens[row] - saved
        return batches

    def _related(self, rows: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """Yield groups of rows that begin alike, each with the tokens that it shares with the row before it."""
        assert self._beginnings is not None
        group: list[tuple[int, int]] = []
        for row, alike in zip(*self._beginnings.among(rows), strict=True):
            close = alike >= _SHARED * self.tokens[row]
            if group and not close:
                yield group
                group = []
            group.append((row, alike if close else 0))
        if group:
            yield group


class PrefixIndex:
    """Finds how much of their beginning any examples of a data set share.

    Args:
        keys: The beginning of each example: token ids as big-endian bytes, which sort like the ids.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._rank = np.empty(len(keys), np.int64)
        self._rank[order] = np.arange(len(keys))
        # shared[r]: tokens that the examples of rank r - 1 and r have in common; 0 at both ends
        alike = [_common(keys[a], keys[b]) for a, b in pairwise(order)]
        self._shared = np.array([0, *alike, 0], np.int64)

    def among(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Compare the beginnings of some examples.

        Args:
            rows: Numbers of the examples, each once.

        Returns:
            The rows, sorted by their beginning, and how many tokens each has in common with the one before it.
        """
        rank = self._rank[list(rows)]
        order = rank.argsort()
        # two examples share what all examples that are sorted between them share
        alike = np.minimum.reduceat(self._shared, rank[order] + 1)[:-1]
        return [rows[i] for i in order], [0, *alike.tolist()][: len(rows)]


def _common(a: bytes, b: bytes) -> int:
    """Return the length of the common beginning in tokens."""
    both = min(len(a), len(b)) // 4
    different = np.frombuffer(a, ">u4", both) != np.frombuffer(b, ">u4", both)
    return int(different.argmax()) if different.any() else both
