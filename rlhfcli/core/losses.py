"""The two losses of the project: next token (SFT) and pairwise ranking (reward model).

Everything here takes tensors, computes in float32 and returns sums or one value per pair, never a mean: the caller
knows over how many tokens or pairs the whole global batch is averaged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the cross entropy of the next token: ``-log softmax(logits)[label]``, summed.

    Args:
        logits: ``(targets, vocabulary)``, one row for every target token.
        labels: ``(targets,)`` ids of the target tokens.

    Returns:
        The summed loss in nats (a scalar, float32) and how many labels had the highest logit (a scalar).
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.detach().argmax(dim=-1) == labels).sum()
    return loss, correct


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the negative log-likelihood that the chosen answer wins.

    Bradley and Terry (1952) model ``P(chosen beats rejected) = sigmoid(chosen - rejected)``, so the loss of a pair is
    ``-log sigmoid(d)`` with ``d = chosen - rejected - margin`` (margin: Llama 2, arXiv 2307.09288). With label
    smoothing ``e`` a label is taken to be wrong with probability ``e``: ``(1 - e) * loss(d) + e * loss(-d)``.

    Args:
        chosen: ``(pairs,)`` scores of the preferred answers.
        rejected: ``(pairs,)`` scores of the others.
        margin: ``(pairs,)`` by how much the chosen score should be higher.
        label_smoothing: The ``e`` above, below 0.5.

    Returns:
        ``(pairs,)`` losses in nats, float32; ln 2 where the two scores are equal.
    """
    difference = chosen.float() - rejected.float()
    if margin is not None:
        difference = difference - margin.float()
    loss = -F.logsigmoid(difference)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-difference)
    return loss


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Compute ``(chosen + rejected)^2``.

    It keeps the scores, of which only the differences matter, near zero (arXiv 2312.09244).

    Args:
        chosen: ``(pairs,)`` scores.
        rejected: ``(pairs,)`` scores.

    Returns:
        ``(pairs,)`` penalties, float32.
    """
    return (chosen.float() + rejected.float()).square()


def mean_by_segment(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Compute the mean of the values of each segment, without a Python loop.

    Args:
        values: ``(tokens,)`` numbers.
        segments: ``(tokens,)`` the segment of each, in ``[0, count)``; every segment has at least one.
        count: Number of segments.

    Returns:
        ``(count,)`` means.
    """
    sums = values.new_zeros(count).index_add(0, segments, values)
    sizes = torch.zeros_like(sums).index_add(0, segments, torch.ones_like(values))
    return sums / sizes
