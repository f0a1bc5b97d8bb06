"""How well a reward model ranks answers, beside what ranks them without understanding anything.

*Accuracy* is the share of pairs whose chosen answer scores higher; a tie is half a hit. So a model that gives
every answer the same score gets 0.5, not the 1.0 or 0.0 that argmax or a strict ``>`` would report (published
reward models of 99.5 % accuracy are such constants). The 95 % interval is Wilson's (JASA 22, 1927), with half
hits counted as halves, which makes it a little too wide where there are ties.

*nll* is the mean Bradley-Terry loss ``-log sigmoid(chosen - rejected)``. Guessing costs ``ln 2 = 0.693``: a
model that does not do better, or whose scores are all the same, is *dead*, whatever its accuracy.

*Baselines*: the longer answer wins, the shorter answer wins (in tokens), and a logistic regression on the
difference of the two answers' word counts, fitted to the training pairs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.encoded import EncodedPair
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent, Sink

_Z95 = 1.959964  # the normal distribution's 97.5 % point
_NO_BETTER = 1e-3  # nats below ln 2 that do not count as having learnt anything
_MAX_WORDS, _MAX_TRAINING = 20_000, 20_000  # bounds the bag of words' memory and time on large data
_NO_KIND = "other"


class Scorer(Protocol):
    """What is needed of a reward model; ``core.reward_model.RewardModel`` has it."""

    def rewards(self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int] | None = None) -> Tensor:
        """The reward of each dialogue: ``(sequences,)``, float32."""


def evaluate_reward(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[EncodedPair],
    training: Sequence[EncodedPair] = (),
    sink: Sink | None = None,
) -> dict[str, Any]:
    """Measure a reward model on pairs it has not seen.

    Args:
        model: The reward model.
        tokenizer: Its tokenizer, for the words of the bag of words.
        pairs: Held-out pairs, at least one.
        training: Training pairs for the bag of words; without them that baseline is null.
        sink: Is told what is being done.

    Returns:
        ``accuracy``, ``accuracy_ci95``, ``ties`` (share), ``pairs``, ``by_kind``, ``baselines``, means and
        standard deviations of the scores, ``nll``, ``verdict`` (``alive``, ``unclear`` or ``dead``) and its
        ``reason``.

    Raises:
        DataError: There are no pairs.
    """
    if not pairs:
        raise DataError("there is no pair to rank", hint="Give eval.pairs, or raise data.validation.")
    sink = sink or Silent()
    with sink.stage(f"scores of {len(pairs):,} pairs"):
        chosen, rejected = score_pairs(model, pairs)
    with sink.stage("baselines"):
        baselines = _baselines(tokenizer, pairs, training)
    result = ranking(chosen, rejected)
    result["by_kind"] = _by_kind(chosen, rejected, [pair.kind for pair in pairs])
    result["baselines"] = baselines
    return result


def score_pairs(model: Scorer, pairs: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and of the rejected answers: ``(pairs,)`` each."""
    sequences = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    starts = [len(pair.prompt) for pair in pairs] * 2
    chosen, rejected = model.rewards(sequences, starts).double().chunk(2)
    return chosen, rejected


def ranking(chosen: Tensor, rejected: Tensor) -> dict[str, Any]:
    """All figures that depend on the scores alone.

    Args:
        chosen: ``(pairs,)`` scores of the preferred answers.
        rejected: ``(pairs,)`` scores of the others.

    Returns:
        Accuracy with its interval, ties, score statistics, nll and the verdict.
    """
    scores = torch.cat([chosen, rejected])
    # Rounding leaves constants a hair apart: a millionth of their size, or of one.
    constant = bool(scores.max() - scores.min() <= 1e-6 * max(1.0, float(scores.abs().max())))
    margin = torch.zeros_like(chosen) if constant else chosen - rejected
    nll = float(F.softplus(-margin).mean())
    result: dict[str, Any] = {
        **accuracy(margin),
        "chosen_mean": float(chosen.mean()),
        "chosen_std": float(chosen.std(correction=0)),
        "rejected_mean": float(rejected.mean()),
        "rejected_std": float(rejected.std(correction=0)),
        "margin_mean": float(margin.mean()),
        "nll": nll,
    }
    result["verdict"], result["reason"] = verdict(nll, constant, result["accuracy_ci95"])
    return result


def accuracy(margin: Tensor) -> dict[str, Any]:
    """Share of positive margins, ties as half, with its 95 % interval.

    Args:
        margin: ``(pairs,)`` by how much the chosen answer is ahead.

    Returns:
        ``accuracy``, ``accuracy_ci95``, ``ties`` (share), ``pairs``.
    """
    pairs, ties = len(margin), int((margin == 0).sum())
    hits = int((margin > 0).sum()) + ties / 2
    return {
        "accuracy": hits / pairs,
        "accuracy_ci95": list(wilson(hits, pairs)),
        "ties": ties / pairs,
        "pairs": pairs,
    }


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    ``(p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n)``: inside [0, 1] always, and honest near its
    ends.

    Args:
        hits: Number of hits, halves allowed.
        n: Out of how many, at least one.

    Returns:
        Lower and upper end.
    """
    p, z2 = hits / n, _Z95**2
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    middle, scale = p + z2 / (2 * n), 1 + z2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def verdict(nll: float, constant: bool, interval: Sequence[float]) -> tuple[str, str]:
    """Whether the reward model has learnt anything.

    Args:
        nll: Mean pairwise loss in nats.
        constant: All scores are the same.
        interval: The accuracy's 95 % interval.

    Returns:
        ``dead``, ``unclear`` or ``alive``, and why.
    """
    guessing = math.log(2)
    if constant:
        return "dead", "every answer gets the same score"
    if not nll < guessing - _NO_BETTER:  # written so that a NaN is dead, too
        cause = "no better than" if nll < guessing + _NO_BETTER else "worse than"
        reason = f"its loss {nll:.4f} is {cause} guessing, ln 2 = {guessing:.4f}"
        if cause == "worse than" and interval[0] > 0.5:
            reason += ", although it ranks better: it is too sure where it errs; train it less"
        return "dead", reason
    if interval[0] <= 0.5:
        return "unclear", "the interval of its accuracy includes 0.5: too few pairs, or too little learnt"
    return "alive", f"its loss {nll:.4f} is below guessing, ln 2 = {guessing:.4f}"


def _by_kind(chosen: Tensor, rejected: Tensor, kinds: Sequence[str]) -> dict[str, Any]:
    """Accuracy for each kind of pair; empty where the data has no kinds."""
    if not any(kinds):
        return {}
    margin = chosen - rejected
    names = sorted({kind or _NO_KIND for kind in kinds})
    return {name: accuracy(margin[[i for i, kind in enumerate(kinds) if (kind or _NO_KIND) == name]]) for name in names}


def _baselines(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[EncodedPair], training: Sequence[EncodedPair]
) -> dict[str, float | None]:
    lengths = torch.tensor([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    words = None
    if training:
        known = _word_differences(tokenizer, training[:_MAX_TRAINING])
        margin = bag_of_words(known, _word_differences(tokenizer, pairs))
        words = accuracy(margin)["accuracy"]
    return {
        "longer": accuracy(lengths)["accuracy"],
        "shorter": accuracy(-lengths)["accuracy"],
        "bag_of_words": words,
    }


def _word_differences(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[EncodedPair]) -> list[dict[str, int]]:
    """How much more often each word is in the chosen answer than in the rejected one."""
    differences = []
    for pair in pairs:
        counts = _words(tokenizer, pair.chosen)
        counts.subtract(_words(tokenizer, pair.rejected))
        differences.append({word: n for word, n in counts.items() if n})
    return differences


def _words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Counter[str]:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Counter(re.findall(r"\w+|[^\w\s]", text.lower()))


def bag_of_words(training: Sequence[dict[str, int]], test: Sequence[dict[str, int]]) -> Tensor:
    """Logistic regression on differences of word counts.

    Minimises ``sum softplus(-w·x) + |w|²/2`` (scikit-learn's default strength). There is no constant: the two
    answers are exchangeable, so a pair in which no known word differs is a tie. Convex, started at zero:
    deterministic.

    Args:
        training: Word differences, chosen minus rejected, of the training pairs.
        test: The same of the pairs to rank.

    Returns:
        ``(test,)`` margins ``w·x``; positive where the chosen answer is taken to be the better one.
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
    """Sparse ``(rows, columns)``; words without a column are left out."""
    cells = [(r, column[word], n) for r, row in enumerate(rows) for word, n in row.items() if word in column]
    at = torch.tensor([cell[:2] for cell in cells], dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor([float(cell[2]) for cell in cells], dtype=torch.float64)
    return torch.sparse_coo_tensor(at, values, (len(rows), len(column)), check_invariants=False).coalesce()
