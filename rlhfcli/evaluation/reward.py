"""How well a reward model ranks answers, beside what ranks them without understanding anything.

A preference ranks two or more answers; each of its comparisons is a *pair*, and each answer is scored once.

*Accuracy* is the share of pairs whose chosen answer scores higher; a tie is half a hit. So a model that gives
every answer the same score gets 0.5, not the 1.0 or 0.0 that argmax or a strict ``>`` would report (published
reward models of 99.5 % accuracy are such constants). The 95 % interval is Wilson's (JASA 22, 1927), with half
hits counted as halves, which makes it a little too wide where there are ties. The pairs of one preference are no
independent trials: a model that likes the worst answer best is wrong on all comparisons with it. So the interval
takes them for one trial, which may make it too wide, never too narrow; for data of pairs it is the usual one.

*nll* is the mean Bradley-Terry loss ``-log sigmoid(chosen - rejected)``. Guessing costs ``ln 2 = 0.693``: a
model that does not do better, or whose scores are all the same, is *dead*, whatever its accuracy.

*Baselines*: the longer answer wins, the shorter answer wins (in tokens), and a logistic regression on the
difference of the two answers' word counts, fitted to the training pairs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.encoding.encoded import EncodedPreference
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
    pairs: Sequence[EncodedPreference],
    training: Sequence[EncodedPreference] = (),
    sink: Sink | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a reward model on preferences it has not seen.

    Args:
        model: The reward model.
        tokenizer: Its tokenizer, for the words of the bag of words.
        pairs: Held-out preferences, at least one.
        training: Training preferences for the bag of words; without them that baseline is null.
        sink: Is told what is being done.
        sets: The name of the set that each preference is of, where there are several.

    Returns:
        ``accuracy``, ``accuracy_ci95``, ``ties`` (share), ``pairs``, ``preferences`` (how many these pairs come
        from), ``by_kind``, ``by_set`` (what depends on the scores alone, for each named set), ``baselines``, means and
        standard deviations of the scores, ``nll``, ``verdict`` (``alive``, ``unclear`` or ``dead``) and its ``reason``.

    Raises:
        DataError: There are no pairs.
    """
    if not pairs:
        raise DataError("there is no pair to rank", hint="Give eval.pairs, or raise data.validation.")
    sink = sink or Silent()
    preference = _preference_of_each_pair(pairs)
    with sink.stage(f"scores of {len(preference):,} pairs"):
        chosen, rejected = score_pairs(model, pairs)
    with sink.stage("baselines"):
        baselines = _baselines(tokenizer, pairs, training)
    result = ranking(chosen, rejected, preference)
    result["preferences"] = len(pairs)
    result["by_kind"] = _by_kind(chosen - rejected, preference, [pair.kind for pair in pairs])
    result["by_set"] = _by_set(chosen, rejected, preference, sets)
    result["baselines"] = baselines
    return result


def score_pairs(model: Scorer, pairs: Sequence[EncodedPreference]) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and of the rejected answer of each comparison; each answer is scored once.

    Args:
        model: The reward model.
        pairs: Preferences of two or more answers.

    Returns:
        ``(comparisons,)`` each, in the order of the preferences.
    """
    sequences = [sequence for pair in pairs for sequence in pair.sequences]
    rewards = model.rewards(sequences, [len(pair.prompt) for pair in pairs for _ in pair.answers]).double()
    answers = torch.tensor([len(pair.answers) for pair in pairs])
    order = torch.tensor([comparison for pair in pairs for comparison in pair.order])
    chosen, rejected = (order + (answers.cumsum(0) - answers)[_preference_of_each_pair(pairs), None]).unbind(1)
    return rewards[chosen], rewards[rejected]


def _preference_of_each_pair(pairs: Sequence[EncodedPreference]) -> Tensor:
    """``(comparisons,)`` which preference each comparison belongs to."""
    return torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(pair.order) for pair in pairs]))


def ranking(chosen: Tensor, rejected: Tensor, preference: Tensor | None = None) -> dict[str, Any]:
    """All figures that depend on the scores alone.

    Args:
        chosen: ``(pairs,)`` scores of the preferred answers.
        rejected: ``(pairs,)`` scores of the others.
        preference: ``(pairs,)`` which preference each pair belongs to; without it, each is one of its own.

    Returns:
        Accuracy with its interval, ties, score statistics, nll and the verdict.
    """
    scores = torch.cat([chosen, rejected])
    # Rounding leaves constants a hair apart: a millionth of their size, or of one.
    constant = bool(scores.max() - scores.min() <= 1e-6 * max(1.0, float(scores.abs().max())))
    margin = torch.zeros_like(chosen) if constant else chosen - rejected
    nll = float(F.softplus(-margin).mean())
    result: dict[str, Any] = {
        **accuracy(margin, preference),
        "chosen_mean": float(chosen.mean()),
        "chosen_std": float(chosen.std(correction=0)),
        "rejected_mean": float(rejected.mean()),
        "rejected_std": float(rejected.std(correction=0)),
        "margin_mean": float(margin.mean()),
        "nll": nll,
    }
    result["verdict"], result["reason"] = verdict(nll, constant, result["accuracy_ci95"])
    return result


def accuracy(margin: Tensor, preference: Tensor | None = None) -> dict[str, Any]:
    """Share of positive margins, ties as half, with its 95 % interval.

    Pairs of one preference count as one trial. Where preferences have different numbers ``m`` of pairs, their number
    of trials is Kish's ``(sum m)^2 / sum m^2``, which is the number of preferences where all ``m`` are the same.

    Args:
        margin: ``(pairs,)`` by how much the chosen answer is ahead.
        preference: ``(pairs,)`` which preference each pair belongs to; without it, each is one of its own.

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
        reason = f"its nll {nll:.4f} is {cause} guessing, ln 2 = {guessing:.4f}"
        if cause == "worse than" and interval[0] > 0.5:
            reason += ", although it ranks better: it is too sure where it errs; train it less"
        return "dead", reason
    if interval[0] <= 0.5:
        return "unclear", "the interval of its accuracy includes 0.5: too few pairs, or too little learnt"
    return "alive", f"its nll {nll:.4f} is below guessing, ln 2 = {guessing:.4f}"


def _by_set(chosen: Tensor, rejected: Tensor, preference: Tensor, sets: Sequence[str]) -> dict[str, Any]:
    """The figures of each named set of preferences; empty where there is one set."""
    of_pair = [sets[i] for i in preference.tolist()] if sets else []
    members = {name: [i for i, own in enumerate(of_pair) if own == name] for name in dict.fromkeys(of_pair)}
    return {name: ranking(chosen[rows], rejected[rows], preference[rows]) for name, rows in members.items()}


def _by_kind(margin: Tensor, preference: Tensor, kinds: Sequence[str]) -> dict[str, Any]:
    """Accuracy for each kind of preference; empty where the data has no kinds."""
    if not any(kinds):
        return {}
    of_pair = [kinds[i] or _NO_KIND for i in preference.tolist()]
    members = {name: [i for i, kind in enumerate(of_pair) if kind == name] for name in sorted(set(of_pair))}
    return {name: accuracy(margin[rows], preference[rows]) for name, rows in members.items()}


def _baselines(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[EncodedPreference], training: Sequence[EncodedPreference]
) -> dict[str, float | None]:
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
    """For each comparison, how much more often each word is in the chosen answer than in the rejected one."""
    for pair in pairs:
        counts = [_words(tokenizer, answer) for answer in pair.answers]
        for chosen, rejected in pair.order:
            more = counts[chosen].copy()
            more.subtract(counts[rejected])
            yield {word: n for word, n in more.items() if n}


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
