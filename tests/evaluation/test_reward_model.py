"""Reward figures against closed forms: constants are dead, ties are half, intervals are Wilson's."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.errors import DataError
from rlhfcli.evaluation.accuracy import accuracy
from rlhfcli.evaluation.baselines import bag_of_words
from rlhfcli.evaluation.intervals import wilson
from rlhfcli.evaluation.reward_model import evaluate_reward, ranking

LN2 = math.log(2)


class Words:
    """A tokenizer whose token ``n`` is the word ``w<n>``."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(f"w{i}" for i in ids)


class Stand:
    """A reward model that computes its score from the answer's tokens."""

    def __init__(self, score: Any) -> None:
        self.score = score

    def rewards(self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int] | None = None) -> Tensor:
        assert prompt_lengths is not None
        answers = [s[n:] for s, n in zip(sequences, prompt_lengths, strict=True)]
        return torch.tensor([float(self.score(answer)) for answer in answers])


def pairs(count: int = 200, seed: int = 0) -> list[EncodedPreference]:
    """The chosen answer has the word 7; everything else is chance."""
    draw = random.Random(seed)

    def answer(length: int) -> list[int]:
        return [draw.randrange(10, 60) for _ in range(length)]

    return [
        EncodedPreference.pair(
            prompt=answer(draw.randrange(1, 5)),
            chosen=[*answer(draw.randrange(1, 8)), 7],
            rejected=[*answer(draw.randrange(1, 8)), 8],
            kind=("wrong", "rude")[i % 2],
        )
        for i in range(count)
    ]


def result(score: Any, training: Sequence[EncodedPreference] = ()) -> dict[str, Any]:
    return evaluate_reward(Stand(score), Words(), pairs(), training)  # type: ignore[arg-type]


@pytest.mark.parametrize("constant", [0.0, -3.25, 1e4])
def test_a_constant_reward_model_is_dead(constant: float) -> None:
    found = result(lambda _: constant)
    assert found["accuracy"] == 0.5
    assert found["ties"] == 1.0
    assert found["verdict"] == "dead"
    assert "same score" in found["reason"]
    assert found["nll"] == pytest.approx(LN2)
    assert found["accuracy_ci95"][0] < 0.5 < found["accuracy_ci95"][1]


def test_rounding_does_not_wake_the_dead() -> None:
    noise = random.Random(1)
    found = result(lambda _: 5 + noise.choice([0, 5e-7, -5e-7]))
    assert (found["accuracy"], found["ties"], found["verdict"]) == (0.5, 1.0, "dead")


def test_a_perfect_reward_model() -> None:
    found = result(lambda answer: 2.0 if 7 in answer else -1.0)
    assert found["accuracy"] == 1.0
    assert found["ties"] == 0.0
    assert found["pairs"] == 200
    assert found["verdict"] == "alive"
    assert found["nll"] == pytest.approx(math.log1p(math.exp(-3)))
    assert (found["chosen_mean"], found["rejected_mean"], found["margin_mean"]) == (2.0, -1.0, 3.0)
    assert (found["chosen_std"], found["rejected_std"]) == (0.0, 0.0)
    assert found["accuracy_ci95"] == pytest.approx([200 / (200 + 1.959964**2), 1.0])


def test_a_reward_model_that_is_always_wrong_is_dead_although_it_knows_something() -> None:
    found = result(lambda answer: -2.0 if 7 in answer else 1.0)
    assert (found["accuracy"], found["verdict"]) == (0.0, "dead")
    assert "worse than guessing" in found["reason"]


def test_guessing_is_dead_whatever_its_accuracy() -> None:
    found = ranking(torch.tensor([1e-4] * 90 + [0.0] * 10), torch.zeros(100))
    assert (found["accuracy"], found["ties"], found["verdict"]) == (0.95, 0.1, "dead")
    assert "no better than guessing" in found["reason"]


def test_an_overconfident_reward_model_is_reported() -> None:
    found = ranking(torch.tensor([9.0] * 80 + [-30.0] * 20), torch.zeros(100))
    assert (found["accuracy"], found["verdict"]) == (0.8, "dead")
    assert "too sure where it errs" in found["reason"]


def test_scores_that_are_no_numbers_are_dead() -> None:
    assert ranking(torch.full((4,), math.nan), torch.zeros(4))["verdict"] == "dead"


def test_few_pairs_are_unclear() -> None:
    found = ranking(torch.tensor([3.0, 3.0, -0.1]), torch.zeros(3))
    assert found["verdict"] == "unclear"


def test_by_kind() -> None:
    kinds = result(lambda answer: 2.0 if 7 in answer else -1.0)["by_kind"]
    assert set(kinds) == {"wrong", "rude"}
    assert kinds["rude"]["pairs"] == 100
    assert kinds["rude"]["accuracy"] == 1.0
    assert kinds["rude"]["accuracy_ci95"][0] == pytest.approx(100 / (100 + 1.959964**2))


def test_named_sets_have_figures_of_their_own() -> None:
    rows, names = pairs(30), ["easy"] * 10 + ["hard"] * 20
    model = Stand(lambda answer: (2.0 if 7 in answer else -1.0) if len(answer) % 2 else 0.0)
    found = evaluate_reward(model, Words(), rows, sets=names)["by_set"]  # type: ignore[arg-type]
    assert list(found) == ["easy", "hard"]
    for name, own in (("easy", rows[:10]), ("hard", rows[10:])):
        alone = evaluate_reward(model, Words(), own)  # type: ignore[arg-type]
        assert found[name] == {key: alone[key] for key in found[name]}
        assert {"accuracy", "accuracy_ci95", "nll", "verdict", "pairs"} <= set(found[name])
    assert evaluate_reward(model, Words(), rows)["by_set"] == {}  # type: ignore[arg-type]


def test_data_without_kinds_has_no_kinds() -> None:
    bare = [EncodedPreference.pair([1], [2], [3]), EncodedPreference.pair([1], [2], [4])]
    model = Stand(lambda answer: answer[0])
    assert evaluate_reward(model, Words(), bare)["by_kind"] == {}  # type: ignore[arg-type]
    mixed = [*bare, EncodedPreference.pair([1], [2], [3], kind="rude")]
    found = evaluate_reward(model, Words(), mixed)["by_kind"]  # type: ignore[arg-type]
    assert {name: part["pairs"] for name, part in found.items()} == {"other": 2, "rude": 1}


def _ranking_of_four(best: int = 3) -> list[EncodedPreference]:
    """Answers [40] to [10]; all six comparisons."""
    order = list(combinations(range(4), 2))
    return [EncodedPreference([1], [[10 * (best + 1 - i)] for i in range(4)], order, [0.0] * 6, kind="list")]


def test_each_comparison_of_a_ranking_is_a_pair_and_each_answer_is_scored_once() -> None:
    scored: list[int] = []

    def score(answer: list[int]) -> float:
        scored.append(answer[0])
        return {40: 3.0, 30: 1.0, 20: 2.0, 10: 0.0, 5: -1.0, 6: -1.0}[answer[0]]

    rows = [*_ranking_of_four(), EncodedPreference.pair([1], [5], [6], kind="two")]
    found = evaluate_reward(Stand(score), Words(), rows)  # type: ignore[arg-type]
    assert sorted(scored) == [5, 6, 10, 20, 30, 40]
    assert (found["pairs"], found["preferences"]) == (7, 2)
    assert found["accuracy"] == pytest.approx(5.5 / 7) and found["ties"] == pytest.approx(1 / 7)
    assert found["chosen_mean"] == pytest.approx((3 * 3 + 2 * 1 + 2 - 1) / 7)
    assert found["rejected_mean"] == pytest.approx((1 + 2 + 0 + 2 + 0 + 0 - 1) / 7)
    assert {kind: part["pairs"] for kind, part in found["by_kind"].items()} == {"list": 6, "two": 1}
    assert found["by_kind"]["list"]["accuracy"] == pytest.approx(5 / 6)
    assert found["baselines"] == {"longer": 0.5, "shorter": 0.5, "bag_of_words": None}


def test_the_interval_takes_the_comparisons_of_one_preference_for_one_trial() -> None:
    margin = torch.tensor([1.0, 1.0, -1.0] * 20)
    rankings = accuracy(margin, torch.arange(20).repeat_interleave(3))
    assert rankings["accuracy"] == pytest.approx(2 / 3) and rankings["pairs"] == 60
    assert rankings["accuracy_ci95"] == pytest.approx(wilson(20 * 2 / 3, 20))
    assert accuracy(margin, torch.arange(60)) == accuracy(margin)
    uneven = accuracy(torch.tensor([1.0] * 6 + [-1.0] * 2), torch.tensor([0] * 6 + [1, 2]))
    assert uneven["accuracy_ci95"] == pytest.approx(wilson(0.75 * 64 / 38, 64 / 38))


def test_the_bag_of_words_learns_from_every_comparison() -> None:
    training = [*_ranking_of_four(), *pairs(50, seed=1)]
    found = evaluate_reward(Stand(sum), Words(), _ranking_of_four(), training)  # type: ignore[arg-type]
    assert found["baselines"]["bag_of_words"] == 1.0


def test_length_baselines_count_ties_as_half() -> None:
    some = [
        EncodedPreference.pair([1], [2, 3], [3]),
        EncodedPreference.pair([1], [2], [4]),
        EncodedPreference.pair([1], [2], [4, 5, 6, 7]),
    ]
    some.append(EncodedPreference.pair([1], [2] * 9, [4]))
    baselines = evaluate_reward(Stand(sum), Words(), some)["baselines"]  # type: ignore[arg-type]
    assert baselines == {"longer": 0.625, "shorter": 0.375, "bag_of_words": None}


def test_bag_of_words_finds_a_word_that_gives_it_away() -> None:
    first = result(sum, training=pairs(300, seed=1))["baselines"]
    assert first["bag_of_words"] == 1.0
    assert first == result(sum, training=pairs(300, seed=1))["baselines"], "deterministic"


def test_bag_of_words_is_the_minimum_of_its_loss() -> None:
    """One word, once, in n pairs: ``w = n sigmoid(-w)``."""
    weight = float(bag_of_words([{"a": 1}] * 4, [{"a": 1}])[0])
    assert weight == pytest.approx(4 / (1 + math.exp(weight)), rel=1e-4)


def test_bag_of_words_has_nothing_to_say_about_unknown_words() -> None:
    margins = bag_of_words([{"a": 1, "b": -1}] * 5, [{"a": 1}, {"b": 1}, {"c": 3}, {}])
    assert margins[0] == -margins[1] > 0
    assert margins[2:].tolist() == [0, 0]
    assert bag_of_words([{}], [{"a": 1}]).tolist() == [0]


def test_wilson_against_known_values() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share_and_is_symmetric(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, 2 * n)) / 2
    low, high = wilson(hits, n)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= hits / n <= high + 1e-12
    assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low))


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=30))
def test_accuracy_of_a_model_and_of_its_opposite_add_up_to_one(margins: list[int]) -> None:
    margin = torch.tensor(margins, dtype=torch.float64)
    assert accuracy(margin)["accuracy"] + accuracy(-margin)["accuracy"] == pytest.approx(1)


def test_no_pairs_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="no pair to rank"):
        evaluate_reward(Stand(sum), Words(), [])  # type: ignore[arg-type]
