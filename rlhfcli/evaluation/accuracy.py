"""Ranking accuracy with its 95 % interval; ``reward`` says why ties count half, and preferences as one trial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhfcli.evaluation.intervals import wilson


def accuracy(margin: Tensor, preference: Tensor | None = None) -> dict[str, Any]:
    """Compute the share of positive margins, ties as half, with its 95 % interval.

    Pairs of one preference count as one trial. Where preferences have different numbers ``m`` of pairs, their number
    of trials is Kish's ``(sum m)^2 / sum m^2``, which is the number of preferences where all ``m`` are the same.

    Args:
        margin: Scores of the chosen minus the rejected answers, ``(pairs,)``.
        preference: Index of the preference that each pair belongs to, ``(pairs,)``; ``None``: one pair each.

    Returns:
        ``accuracy``, ``accuracy_ci95``, ``ties`` (share), ``pairs``.
    """
    pairs, ties = len(margin), int((margin == 0).sum())
    share = (int((margin > 0).sum()) + ties / 2) / pairs
    trials: float = pairs
    if preference is not None:
        trials = pairs**2 / int(torch.bincount(preference).square().sum())
    return {
        "accuracy": share,
        "accuracy_ci95": list(wilson(share * trials, trials)),
        "ties": ties / pairs,
        "pairs": pairs,
    }
