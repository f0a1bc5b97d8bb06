"""Losses against closed forms and against a slow, obvious reference."""

import math

import pytest
import torch

from rlhfcli.core import losses


def test_equal_scores_cost_ln_2() -> None:
    zero = torch.zeros(3)
    torch.testing.assert_close(losses.bradley_terry(zero, zero), torch.full((3,), math.log(2)))


@pytest.mark.parametrize("difference", [-30.0, -2.0, -0.1, 0.0, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("margin", [0.0, 1.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_bradley_terry_is_the_cross_entropy_of_the_winning_probability(
    difference: float, margin: float, smoothing: float
) -> None:
    chosen, rejected = torch.tensor([difference + 2.0]), torch.tensor([2.0])
    loss = losses.bradley_terry(chosen, rejected, torch.tensor([margin]), smoothing)
    d = difference - margin
    log_win, log_lose = -math.log1p(math.exp(-d)), -math.log1p(math.exp(d)) if d < 30 else -d
    expected = -(1 - smoothing) * log_win - smoothing * log_lose
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_large_differences_do_not_overflow() -> None:
    loss = losses.bradley_terry(torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4]))
    assert loss.tolist() == [2e4, 0.0]


def test_label_smoothing_is_least_where_the_model_is_as_sure_as_the_labels() -> None:
    smoothing = 0.2
    best = math.log((1 - smoothing) / smoothing)  # sigmoid(best) = 1 - smoothing
    at = torch.tensor([best - 0.1, best, best + 0.1])
    loss = losses.bradley_terry(at, torch.zeros(3), None, smoothing)
    assert loss[1] < loss[0] and loss[1] < loss[2]


def test_losses_of_half_precision_scores_are_computed_in_float32() -> None:
    loss = losses.bradley_terry(torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32


def test_centering_does_not_care_about_the_difference() -> None:
    penalty = losses.centering(torch.tensor([3.0, 1.0]), torch.tensor([-3.0, 2.0]))
    assert penalty.tolist() == [0.0, 9.0]


def test_next_token_of_uniform_logits_is_ln_of_the_vocabulary() -> None:
    loss, _ = losses.next_token(torch.zeros(5, 17), torch.arange(5))
    assert float(loss) == pytest.approx(5 * math.log(17))


def test_next_token_against_the_definition() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 11), torch.randint(11, (7,))
    loss, correct = losses.next_token(logits, labels)
    expected = sum(
        -math.log(math.exp(row[y]) / sum(math.exp(v) for v in row))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert int(correct) == sum(
        max(range(11), key=row.__getitem__) == y for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    )


def test_mean_by_segment_against_a_loop() -> None:
    values, segments = torch.tensor([1.0, 5.0, 2.0, 9.0, 3.0]), torch.tensor([1, 0, 1, 2, 1])
    assert losses.mean_by_segment(values, segments, 3).tolist() == [5.0, 2.0, 9.0]
