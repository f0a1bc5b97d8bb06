"""How well a reward model ranks answers, beside baselines that rank them without understanding anything.

A preference ranks two or more answers; each of its comparisons is a *pair*, and each answer is scored once.

*Accuracy* is the share of pairs whose chosen answer scores higher; a tie is half a hit. So a model that gives
every answer the same score gets 0.5, not the 1.0 or 0.0 that argmax or a strict ``>`` would report (published
reward models of 99.5 % accuracy are such constants). The 95 % interval is Wilson's (JASA 22, 1927), with half
hits counted as halves, which makes it a little too wide where there are ties. The pairs of one preference are no
independent trials: a model that likes the worst answer best is wrong on all comparisons with it. So the interval
takes them for one trial, which may make it too wide, never too narrow; for data of pairs it is the usual one.

*nll* is the mean Bradley-Terry loss ``-log sigmoid(chosen - rejected)``. Guessing costs ``ln 2 = 0.693``: a
model that does not do better, or whose scores are all the same, is *dead*, whatever its accuracy.

*Baselines* are in ``baselines``: the longer answer wins, the shorter answer wins, and a bag of words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.errors import DataError
from rlhfcli.evaluation.accuracy import accuracy
from rlhfcli.evaluation.baselines import baselines
from rlhfcli.progress import Silent, Sink

_NO_BETTER = 1e-3  # nats below ln 2 that do not show that anything was learnt
_NO_KIND = "other"


class Scorer(Protocol):
    """The interface of a reward model that evaluation needs; ``core/models/reward_model.py`` implements it."""

    def rewards(self, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int] | None = None) -> Tensor:
        """Compute the reward of each dialogue.

        Args:
            sequences: Token ids of the dialogues.
            prompt_lengths: Tokens of each that are the prompt.

        Returns:
            Rewards, ``(sequences,)``, float32.
        """


def evaluate_reward(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[EncodedPreference],
    training: Sequence[EncodedPreference] = (),
    sink: Sink | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a reward model on held-out preferences.

    Args:
        model: The reward model.
        tokenizer: Its tokenizer, for the bag of words.
        pairs: Held-out preferences, at least one.
        training: Training preferences for the bag of words; without them that baseline is null.
        sink: Receives the progress.
        sets: Name of the set of each preference; empty if there is one set.

    Returns:
        ``accuracy``, ``accuracy_ci95``, ``ties`` (share), ``pairs``, ``preferences`` (their number), ``by_kind``,
        ``by_set`` (the figures of ``ranking`` for each named set), ``baselines``, means and standard deviations of the
        scores, ``nll``, ``verdict`` (``alive``, ``unclear`` or ``dead``) and its ``reason``.

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
        of_baselines = baselines(tokenizer, pairs, training)
    result = ranking(chosen, rejected, preference)
    result["preferences"] = len(pairs)
    result["by_kind"] = _by_kind(chosen - rejected, preference, [pair.kind for pair in pairs])
    result["by_set"] = _by_set(chosen, rejected, preference, sets)
    result["baselines"] = of_baselines
    return result


def score_pairs(model: Scorer, pairs: Sequence[EncodedPreference]) -> tuple[Tensor, Tensor]:
    """Compute the rewards of the chosen and the rejected answer of each comparison; each answer is scored once.

    Args:
        model: The reward model.
        pairs: Preferences of two or more answers.

    Returns:
        Rewards of the chosen and of the rejected answers, ``(comparisons,)`` each, in the order of the preferences.
    """
    sequences = [sequence for pair in pairs for sequence in pair.sequences]
    rewards = model.rewards(sequences, [len(pair.prompt) for pair in pairs for _ in pair.answers]).double()
    answers = torch.tensor([len(pair.answers) for pair in pairs])
    order = torch.tensor([comparison for pair in pairs for comparison in pair.order])
    chosen, rejected = (order + (answers.cumsum(0) - answers)[_preference_of_each_pair(pairs), None]).unbind(1)
    return rewards[chosen], rewards[rejected]


def _preference_of_each_pair(pairs: Sequence[EncodedPreference]) -> Tensor:
    """Return the index of the preference of each comparison, ``(comparisons,)``."""
    return torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(pair.order) for pair in pairs]))


def ranking(chosen: Tensor, rejected: Tensor, preference: Tensor | None = None) -> dict[str, Any]:
    """Compute all figures that depend on the scores alone.

    Args:
        chosen: Scores of the chosen answers, ``(pairs,)``.
        rejected: Scores of the rejected answers, ``(pairs,)``.
        preference: Index of the preference that each pair belongs to, ``(pairs,)``; ``None``: one pair each.

    Returns:
        Accuracy with its interval, ties, score statistics, nll and the verdict.
    """
    scores = torch.cat([chosen, rejected])
    # equal scores differ by rounding: a millionth of their size, or of one
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


def verdict(nll: float, constant: bool, interval: Sequence[float]) -> tuple[str, str]:
    """Decide whether the reward model has learnt anything.

    Args:
        nll: Mean pairwise loss in nats.
        constant: Whether all scores are the same.
        interval: 95 % interval of the accuracy.

    Returns:
        ``dead``, ``unclear`` or ``alive``, and the reason.
    """
    guessing = math.log(2)
    if constant:
        return "dead", "every answer gets the same score"
    if not nll < guessing - _NO_BETTER:  # in this form a NaN is dead, too
        cause = "no better than" if nll < guessing + _NO_BETTER else "worse than"
        reason = f"its nll {nll:.4f} is {cause} guessing, ln 2 = {guessing:.4f}"
        if cause == "worse than" and interval[0] > 0.5:
            reason += ", although it ranks better: it is too sure where it errs; train it less"
        return "dead", reason
    if interval[0] <= 0.5:
        return "unclear", "the interval of its accuracy includes 0.5: too few pairs, or too little learnt"
    return "alive", f"its nll {nll:.4f} is below guessing, ln 2 = {guessing:.4f}"


def _by_set(chosen: Tensor, rejected: Tensor, preference: Tensor, sets: Sequence[str]) -> dict[str, Any]:
    """Compute the figures of each named set of preferences; empty if there is one set."""
    of_pair = [sets[i] for i in preference.tolist()] if sets else []
    members = {name: [i for i, own in enumerate(of_pair) if own == name] for name in dict.fromkeys(of_pair)}
    return {name: ranking(chosen[rows], rejected[rows], preference[rows]) for name, rows in members.items()}


def _by_kind(margin: Tensor, preference: Tensor, kinds: Sequence[str]) -> dict[str, Any]:
    """Compute the accuracy for each kind of preference; empty if the data has no kinds."""
    if not any(kinds):
        return {}
    of_pair = [kinds[i] or _NO_KIND for i in preference.tolist()]
    members = {name: [i for i, kind in enumerate(of_pair) if kind == name] for name in sorted(set(of_pair))}
    return {name: accuracy(margin[rows], preference[rows]) for name, rows in members.items()}
