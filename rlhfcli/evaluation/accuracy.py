"""Ranking accuracy with its 95 % interval; ``reward`` says why ties count half, and preferences as one trial."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_Z95 = 1.959964  # the normal distribution's 97.5 % point


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


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share (JASA 22, 1927).

    ``(p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n)``: always inside [0, 1], and reliable near its ends.

    Args:
        hits: Number of hits, halves allowed.
        n: Number of trials, at least one.

    Returns:
        Lower and upper end.
    """
    p, z2 = hits / n, _Z95**2
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    middle, scale = p + z2 / (2 * n), 1 + z2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
