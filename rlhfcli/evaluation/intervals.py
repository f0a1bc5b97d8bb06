"""95 % intervals of shares, and of weighted means of independent shares, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z95 = 1.959964  # the normal distribution's 97.5 % point


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


def of_weighted_sum(
    values: Sequence[float], ends: Sequence[tuple[float, float]], weights: Sequence[float]
) -> tuple[float, float]:
    """Compute the 95 % interval of a weighted sum of independent estimates from their own intervals.

    The method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008; Newcombe's for two
    shares): ``θ - sqrt(Σ w²(p - l)²)`` to ``θ + sqrt(Σ w²(u - p)²)``. A share of 1 keeps the uncertainty of its
    interval, which a bootstrap would lose.

    Args:
        values: Estimates.
        ends: Lower and upper end of the interval of each.
        weights: Weights of the sum, none negative.

    Returns:
        Lower and upper end.
    """
    total = sum(weight * value for weight, value in zip(weights, values, strict=True))
    below = sum((weight * (value - low)) ** 2 for weight, value, (low, _) in zip(weights, values, ends, strict=True))
    above = sum((weight * (high - value)) ** 2 for weight, value, (_, high) in zip(weights, values, ends, strict=True))
    return total - math.sqrt(below), total + math.sqrt(above)
