"""A finished phase in one line, also where figures are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfcli.api.results import PhaseResult

CASES = [
    ([{"step": 0, "eval_nll": 0.7}, {"step": 1, "loss": 0.6}], {"eval_nll": 0.5}, "0.700 → 0.500"),
    ([{"step": 4, "eval_nll": 0.6}], {"eval_nll": 0.5}, "0.500"),  # the first lines are lost
    ([], {"eval_nll": 0.5}, "0.500"),
    ([{"step": 0, "eval_loss": 0.7}], {"eval_nll": 0.5}, "0.500"),  # of an older version
    ([{"step": 0, "eval_nll": 0.7}], {}, "not known"),
    ([], {}, "not known"),
]


@pytest.mark.parametrize(("history", "evaluation", "said"), CASES)
def test_a_figure_before_and_after(history: list[dict[str, float]], evaluation: dict[str, float], said: str) -> None:
    result = PhaseResult("reward", Path("runs/a/reward/final"), 5, history=history, validation=evaluation)
    assert f"validation nll {said}, ranking accuracy not known" in result.summary()
