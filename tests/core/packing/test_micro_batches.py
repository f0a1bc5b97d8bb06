"""Cutting a step: nothing is lost, nothing is too large, and examples that begin alike share a micro-batch."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.core.token_trees.forest import build_forest
from tests.core import families

IDS = st.lists(st.integers(0, 2), max_size=10)
TREES = st.lists(st.tuples(IDS, st.lists(IDS.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(TREES, st.integers(1, 60), st.booleans(), st.randoms())
def test_every_row_once_and_within_the_budget(
    trees: list[tuple[list[int], list[list[int]]]], budget: int, packed: bool, chance: random.Random
) -> None:
    rows = chance.sample(range(len(trees)), chance.randint(1, len(trees)))
    parts = MicroBatches(trees, packed=packed).cut(rows, budget)
    assert sorted(row for part in parts for row in part) == sorted(rows)
    for part in parts:
        sequences = [trees[row][0] + answer for row in part for answer in trees[row][1]]
        cost = len(build_forest(sequences).ids) if packed else len(sequences) * max(map(len, sequences))
        assert cost <= budget or len(part) == 1


def test_tokens_are_those_that_are_computed() -> None:
    tree = ([5] * 10, [[6] * 3, [7] * 4])
    assert MicroBatches([tree], packed=True).tokens == [17]
    assert MicroBatches([tree], packed=False).tokens == [27]


def test_preferences_with_one_prompt_share_a_micro_batch() -> None:
    prompts = families.token_ids([40] * 6)
    answers = families.token_ids([10] * 24, seed=1)
    trees = [(prompts[i % 6], [answers[2 * i], answers[2 * i + 1]]) for i in range(12)]
    for budget in (85, 150, 160, 250):  # one prompt's preferences (150: with room for half of the next), two, three
        parts = MicroBatches(trees, packed=True).cut(range(12), budget)
        assert all({(row + 6) % 12 for row in part} == set(part) for part in parts)
        assert max(len(part) for part in parts) == 2 * (budget // 80)


def test_a_group_that_is_too_large_is_cut_and_computes_its_prompt_again() -> None:
    prompt = families.token_ids([50])[0]
    trees = [(prompt, [[100 + i] * 10]) for i in range(9)]
    parts = MicroBatches(trees, packed=True).cut(range(9), 90)
    assert [len(part) for part in parts] == [4, 4, 1]


def test_two_examples_share_no_more_than_those_sorted_between_them() -> None:
    """Rows 0 and 2 share less than what stands between them in the whole data set shares with each."""
    ids = [[1, 2, 3, 4], [1, 2, 9, 9], [1, 2, 9, 9, 9], [1, 8, 8, 8]]
    beginnings = MicroBatches([(row, [[]]) for row in ids], packed=True)._beginnings
    assert beginnings is not None
    assert beginnings.among([3, 2, 0]) == ([0, 2, 3], [0, 2, 1])
    assert beginnings.among([2, 1]) == ([1, 2], [0, 4])
    assert beginnings.among([3]) == ([3], [0])


def test_no_examples_make_no_micro_batch() -> None:
    for packed in (True, False):
        assert MicroBatches([], packed=packed).cut([], 10) == []


def test_similar_sizes_share_a_micro_batch() -> None:
    lengths = [100, 3, 90, 4, 95, 5]
    ids = families.token_ids(lengths)
    assert MicroBatches([(row, [[]]) for row in ids], packed=True).cut(range(6), 286) == [[0, 4, 2], [5, 3, 1]]
    assert MicroBatches([(row, [[]]) for row in ids], packed=False).cut(range(6), 300) == [[0, 4, 2], [5, 3, 1]]
