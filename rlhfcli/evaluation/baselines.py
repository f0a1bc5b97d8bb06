"""Baselines for a reward model: rankings that need no understanding of the answers.

The longer answer wins; the shorter answer wins (in tokens); a logistic regression on the difference of the two answers'
word counts, fitted to the training pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.evaluation.accuracy import accuracy

_MAX_WORDS, _MAX_TRAINING = 20_000, 20_000  # limits of memory and time of the bag of words


def baselines(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[EncodedPreference], training: Sequence[EncodedPreference]
) -> dict[str, float | None]:
    """Compute the ranking accuracy of each baseline.

    Args:
        tokenizer: Turns answers into text, for the bag of words.
        pairs: Held-out preferences.
        training: Training preferences for the bag of words; empty: its accuracy is ``None``.

    Returns:
        ``longer``, ``shorter`` and ``bag_of_words``.
    """
    differences = [len(pair.answers[b]) - len(pair.answers[w]) for pair in pairs for b, w in pair.order]
    lengths = torch.tensor(differences, dtype=torch.float)
    words = None
    if training:
        known = list(islice(_word_differences(tokenizer, training), _MAX_TRAINING))
        margin = bag_of_words(known, list(_word_differences(tokenizer, pairs)))
        words = accuracy(margin)["accuracy"]
    return {
        "longer": accuracy(lengths)["accuracy"],
        "shorter": accuracy(-lengths)["accuracy"],
        "bag_of_words": words,
    }


def _word_differences(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[EncodedPreference]
) -> Iterator[dict[str, int]]:
    """Yield, for each comparison, the word counts of the chosen answer minus those of the rejected one."""
    for pair in pairs:
        counts = [_words(tokenizer, answer) for answer in pair.answers]
        for chosen, rejected in pair.order:
            difference = counts[chosen].copy()
            difference.subtract(counts[rejected])
            yield {word: n for word, n in difference.items() if n}


def _words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Counter[str]:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Counter(re.findall(r"\w+|[^\w\s]", text.lower()))


def bag_of_words(training: Sequence[dict[str, int]], test: Sequence[dict[str, int]]) -> Tensor:
    """Fit a logistic regression to differences of word counts, and apply it to other pairs.

    It minimises ``sum softplus(-w·x) + |w|²/2`` (scikit-learn's default strength). There is no constant: the two
    answers are exchangeable, so a pair in which no known word differs is a tie. The problem is convex and the start
    is zero: the result is deterministic.

    Args:
        training: Word counts of the chosen minus those of the rejected answer, for each training pair.
        test: The same for the pairs to rank.

    Returns:
        Margins ``w·x``, ``(test,)``; positive where the chosen answer is predicted to be the better one.
    """
    seen = Counter(word for row in training for word in row)
    column = {word: i for i, (word, _) in enumerate(seen.most_common(_MAX_WORDS))}
    x = _matrix(training, column)
    weights = torch.zeros(len(column), 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = F.softplus(-torch.sparse.mm(x, weights)).sum() + weights.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    if column:
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    margins: Tensor = torch.sparse.mm(_matrix(test, column), weights.detach()).squeeze(1)
    return margins


def _matrix(rows: Sequence[dict[str, int]], column: dict[str, int]) -> Tensor:
    """Return a sparse matrix ``(rows, columns)``; words without a column are left out."""
    cells = [(r, column[word], n) for r, row in enumerate(rows) for word, n in row.items() if word in column]
    at = torch.tensor([cell[:2] for cell in cells], dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor([float(cell[2]) for cell in cells], dtype=torch.float64)
    return torch.sparse_coo_tensor(at, values, (len(rows), len(column)), check_invariants=False).coalesce()
