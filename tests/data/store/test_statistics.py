"""Lengths, turns and padding, against the slow way to count them."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.store.statistics import PartStatistics


def dialogue(length: int, *spans: tuple[int, int]) -> EncodedDialogue:
    return EncodedDialogue([7] * length, list(spans))


def preference(prompt: int, *answers: int, order: list[tuple[int, int]] | None = None) -> EncodedPreference:
    order = order or [(0, 1)]
    return EncodedPreference([7] * prompt, [[7] * n for n in answers], order, [0.0] * len(order))


def of(*examples: EncodedDialogue | EncodedPreference, batch_size: int = 2, max_length: int = 512) -> dict:
    statistics = PartStatistics()
    for number, example in enumerate(examples):
        statistics.add(example, turns=2 + 2 * (number % 2))
    return statistics.as_json(batch_size, max_length)


def test_dialogues_are_counted() -> None:
    figures = of(dialogue(10, (4, 10)), dialogue(30, (5, 10), (20, 30)), dialogue(20, (1, 2)))
    whole = {key: figures[key] for key in ("rows", "comparisons", "sequences", "tokens", "answer", "longest")}
    assert whole == {"rows": 3, "comparisons": 3, "sequences": 3, "tokens": 60, "answer": 22, "longest": 30}
    assert set(figures["lengths"]) == {"sequence"}
    assert figures["lengths"]["sequence"]["p50"] == 20


def test_of_a_preference_the_prompt_counts_once_and_each_answer() -> None:
    figures = of(preference(10, 5, 9), preference(20, 1, 2, 3, order=[(0, 1), (0, 2), (1, 2)]))
    whole = {key: figures[key] for key in ("rows", "comparisons", "sequences", "tokens", "answer", "longest")}
    assert whole == {"rows": 2, "comparisons": 4, "sequences": 5, "tokens": 50, "answer": 20, "longest": 23}
    assert [figures["lengths"]["sequence"][key] for key in ("min", "max")] == [19, 23]
    assert [figures["lengths"]["prompt"][key] for key in ("min", "max")] == [10, 20]
    assert [figures["lengths"]["answer"][key] for key in ("min", "p50", "max")] == [1, 3, 9]


def test_turns() -> None:
    turns = of(*[dialogue(5, (1, 5))] * 5)["turns"]
    assert turns["counts"] == {"2": 3, "4": 2}
    assert turns["quantiles"] == {"min": 2, "p10": 2, "p25": 2, "p50": 2, "p75": 4, "p90": 4, "p99": 4, "max": 4}


def test_the_ways_to_batch() -> None:
    # batches of two in order of length: (4, 6) and (8, 20), each pair as two branches of the longest
    pairs = [preference(3, 1, 1), preference(3, 17, 1), preference(3, 3, 1), preference(3, 5, 1)]
    padding = of(*pairs, batch_size=2, max_length=32)["padding"]
    assert padding["batch_size"] == 2
    assert padding["max_length"]["tokens"] == 8 * 32
    assert padding["sorted"]["tokens"] == 4 * 6 + 4 * 20
    assert padding["longest"]["tokens"] in {4 * a + 4 * 20 for a in (6, 8)}  # whichever the shuffled order pairs
    assert padding["packed"]["tokens"] == sum((3 + 1) + (3 + n) for n in (1, 3, 5, 17))
    assert padding["tree"] == {"tokens": sum(3 + 1 + n for n in (1, 3, 5, 17)), "factor": 1.0}
    assert padding["sorted"]["factor"] == round(104 / 42, 3)


def test_padding_to_the_longest_lies_between_sorting_and_the_limit() -> None:
    draw = random.Random(3)
    rows = [preference(draw.randint(5, 200), draw.randint(2, 100), draw.randint(2, 100)) for _ in range(999)]
    padding = of(*rows, batch_size=16)["padding"]
    ways = [padding[name]["tokens"] for name in ("max_length", "longest", "sorted", "packed", "tree")]
    assert ways == sorted(ways, reverse=True)
    assert len(set(ways)) == 5


@pytest.mark.parametrize("low, high", [(1, 3), (5, 40), (20, 512), (1, 4096), (480, 512), (60_000, 131_072), (9, 9)])
def test_every_row_is_in_one_bin(low: int, high: int) -> None:
    draw = random.Random(low)
    lengths = [draw.randint(low, high) for _ in range(500)]
    histogram = of(*(dialogue(n, (0, 1)) for n in lengths))["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert counts == [sum(a <= n < b for n in lengths) for a, b in pairwise(edges)]
    assert sum(counts) == 500
    assert len(counts) <= 16
    assert len(counts) >= min(7, len(set(lengths)))


def test_one_long_row_does_not_flatten_the_histogram() -> None:
    histogram = of(*(dialogue(n, (0, 1)) for n in [*range(1, 200), 4096]))["histogram"]
    assert histogram["edges"][-1] == 4097
    assert histogram["edges"][1] - histogram["edges"][0] <= 20
    assert histogram["counts"][-1] == 1


def test_a_part_without_rows() -> None:
    figures = PartStatistics().as_json(8, 512)
    assert (figures["rows"], figures["tokens"], figures["longest"]) == (0, 0, 0)
    assert figures["padding"] == figures["turns"] == figures["lengths"] == figures["histogram"] == {}


def test_plain_json_and_the_same_every_time() -> None:
    draw = random.Random(5)
    rows = [preference(draw.randint(1, 90), draw.randint(1, 90), draw.randint(1, 90)) for _ in range(300)]
    assert json.dumps(of(*rows)) == json.dumps(of(*rows))
    assert json.loads(json.dumps(of(*rows))) == of(*rows)
