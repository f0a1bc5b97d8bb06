"""Preference pairs: balanced so that neither length nor single words reveal the bad answer."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rlhfcli.tiny import preference_pairs

Row = dict[str, Any]
KINDS = {
    "wrong", "rude", "off_topic", "cut_short", "ignores_earlier_turn", "ramble", "over_refuse", "complies",
    "miscopied",
}  # fmt: skip


@pytest.fixture(scope="module")
def held_out() -> list[Row]:
    return list(preference_pairs(2000, 21, "test"))


def _accuracy(differences: np.ndarray) -> float:
    """Share of pairs in which the chosen answer is ahead; ties count half."""
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[\w']+|[.,!?]", text.lower())


def _matrix(rows: list[Row], vocabulary: dict[str, int]) -> np.ndarray:
    """Word counts of the chosen answer less those of the rejected one, ``(pairs, words)``."""
    matrix = np.zeros((len(rows), len(vocabulary)))
    for number, row in enumerate(rows):
        for field, sign in (("chosen", 1), ("rejected", -1)):
            for word in _tokens(row[field]):
                if word in vocabulary:
                    matrix[number, vocabulary[word]] += sign
    return matrix


def _bag_of_words(rows: list[Row], l2: float) -> tuple[np.ndarray, dict[str, int]]:
    """Logistic regression by gradient descent with momentum."""
    counts = Counter(word for row in rows for field in ("chosen", "rejected") for word in set(_tokens(row[field])))
    vocabulary = {word: i for i, word in enumerate(w for w, n in counts.items() if n > 1)}
    matrix = _matrix(rows, vocabulary)
    weights, momentum = np.zeros(len(vocabulary)), np.zeros(len(vocabulary))
    for _ in range(400):
        wrong = 1 / (1 + np.exp(np.clip(matrix @ weights, -30, 30)))
        momentum = 0.9 * momentum - (matrix * wrong[:, None]).mean(0) + l2 * weights
        weights -= 0.5 * momentum
    return weights, vocabulary


def test_rows(held_out: list[Row]) -> None:
    assert len(held_out) == 2000
    for row in held_out:
        assert set(row) == {"prompt", "chosen", "rejected", "kind", "skill"}
        assert row["prompt"][-1]["role"] == "user"
        assert row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]


def test_all_kinds_in_numbers_that_can_be_measured(held_out: list[Row]) -> None:
    counts = Counter(row["kind"] for row in held_out)
    assert set(counts) == KINDS
    assert min(counts.values()) >= 60


def test_seeded() -> None:
    first = list(preference_pairs(100, 1, "train"))
    assert first == list(preference_pairs(100, 1, "train"))
    assert first == list(preference_pairs(150, 1, "train"))[:100]
    assert first != list(preference_pairs(100, 2, "train")) != list(preference_pairs(100, 2, "test"))


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_length_gives_nothing_away(seed: int) -> None:
    rows = list(preference_pairs(2000, seed, "test"))
    for size in (len, lambda text: len(text.split())):
        longer = _accuracy(np.array([size(row["chosen"]) - size(row["rejected"]) for row in rows]))
        assert 0.45 <= longer <= 0.55


@pytest.mark.parametrize("l2", [1e-3, 1e-2])
def test_a_bag_of_words_gives_little_away(held_out: list[Row], l2: float) -> None:
    weights, vocabulary = _bag_of_words(list(preference_pairs(4000, 1, "train")), l2)
    assert _accuracy(_matrix(held_out, vocabulary) @ weights) <= 0.62


def test_a_rejected_answer_is_often_a_right_one_elsewhere() -> None:
    rows = list(preference_pairs(4000, 1, "train"))
    chosen = {row["chosen"] for row in rows}
    whole = [row for row in rows if row["kind"] in ("off_topic", "over_refuse", "complies")]
    assert sum(row["rejected"] in chosen for row in whole) / len(whole) > 0.9


def test_names_that_were_stated_and_not_stated_are_mirrored() -> None:
    rows = [row for row in preference_pairs(6000, 1, "train") if row["kind"] == "ignores_earlier_turn"]
    unknown_chosen = sum("yet." in row["chosen"] for row in rows) / len(rows)
    unknown_rejected = sum("yet." in row["rejected"] for row in rows) / len(rows)
    assert abs(unknown_chosen - unknown_rejected) < 0.08
