"""Sharing micro-batches among ranks: none twice, none left out, about the same load for each."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest

from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.training.rank_batches import batches_of_rank, cut, divide, num_passes, prefetch
from rlhfcli.data.encoding.encoded import EncodedDialogue


def task(lengths: Sequence[int], *, packed: bool = True) -> SftTask:
    rng = random.Random(3)
    rows = [[2, *(rng.randrange(4, 99) for _ in range(length - 1))] for length in lengths]
    return SftTask([EncodedDialogue(row, [(1, len(row))]) for row in rows], "assistant", packed=packed, pad_id=1)


LENGTHS = [random.Random(5).randrange(8, 200) for _ in range(64)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [100, 512, 10**6])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_row_is_computed_once_and_fits(packed: bool, budget: int, ranks: int) -> None:
    examples = task(LENGTHS, packed=packed)
    rows = random.Random(1).sample(range(64), 40)
    shares = cut(examples, rows, budget, ranks)
    assert len(shares) == ranks
    assert sorted(row for share in shares for part in share for row in part) == sorted(rows)
    for part in (part for share in shares for part in share):
        assert len(part) == 1 or examples.collate(part).layout.input_ids.numel() <= budget


@pytest.mark.parametrize(("budget", "ranks"), [(10**6, 2), (10**6, 8), (2048, 2), (1024, 4), (700, 3)])
def test_ranks_have_equal_loads_in_as_few_passes_as_possible(budget: int, ranks: int) -> None:
    shares = cut(task(LENGTHS), range(64), budget, ranks)
    load = [sum(LENGTHS[row] for part in share for row in part) for share in shares]
    assert max(load) <= 1.15 * sum(load) / ranks
    assert num_passes(shares) <= -(-sum(LENGTHS) // (ranks * budget)) + 1


def test_a_rank_without_work_repeats_the_shortest_row_which_does_not_count() -> None:
    examples = task([9, 5, 30])
    shares = divide([[0, 1], [2]], examples.lengths(), 3)
    assert shares == [[[2]], [[0, 1]], []]
    made = [batches_of_rank(examples, shares, rank) for rank in range(3)]
    assert [[batch.rows for batch in share.batches] for share in made] == [[(2,)], [(0, 1)], []]
    assert [[batch.rows for batch in share.padding_batches] for share in made] == [[], [], [(1,)]]


def test_the_largest_goes_first_to_the_rank_with_the_least() -> None:
    lengths = [10, 9, 8, 7, 6, 5]
    assert divide([[k] for k in range(6)], lengths, 2) == [[[0], [3], [4]], [[1], [2], [5]]]


def test_results_are_made_one_ahead_and_in_order() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return 10 * number

    results = prefetch(make, range(4))
    assert next(results) == 0
    for thread in threading.enumerate():
        if thread.name == "batches":
            thread.join()
    assert made == [0, 1]  # the next one is there, and no more
    assert list(results) == [10, 20, 30]
    assert list(prefetch(make, [])) == []


def test_an_error_in_the_background_is_raised_when_its_result_is_due() -> None:
    def make(number: int) -> int:
        return 6 // (2 - number)

    results = prefetch(make, range(4))
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
