"""Phase 2, the reward model: from preferences to scores, and from scores to the ranking loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rlhfcli.core import losses
from rlhfcli.core.packing.layout import Layout, lay_out, spans
from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.core.tasks.task import Batch, Forward, KnowsTrees, Sums, origin_of
from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.files.run_layout import REWARD, Phase
from rlhfcli.recipe.schema import RewardSection


@dataclass(frozen=True)
class RewardBatch(Batch):
    """Preferences, ready for the reward model: each prompt with each of its answers is a sequence.

    ``positions`` are the tokens whose scores are needed, for three purposes one behind the other; ``split_scores``
    takes their scores apart again:

        better (compared,) | worse (compared,) | pooled (pooled,)        (n,) in all, n = 2 * compared + pooled

    Args:
        sequence: ``(pooled,)`` the sequence, in ``[0, sequences)``, that a pooled score belongs to.
        comparison: ``(compared,)`` the comparison that compared scores belong to; empty unless pooling is tokenwise.
        better: ``(comparisons,)`` the sequence with the better answer.
        worse: ``(comparisons,)`` the sequence with the worse answer.
        margin: ``(comparisons,)`` by how much the better score should be higher.
        preference: ``(comparisons,)`` the preference, in ``[0, examples)``, that a comparison belongs to.
    """

    sequence: Tensor
    comparison: Tensor
    better: Tensor
    worse: Tensor
    margin: Tensor
    preference: Tensor

    def split_scores(self, scores: Tensor) -> TokenScores:
        """Take the scores apart by their purpose.

        Args:
            scores: ``(n,)`` scores at ``positions``.
        """
        sizes = [len(self.comparison), len(self.comparison), len(self.sequence)]
        return TokenScores(*torch.split(scores, sizes))


class TokenScores(NamedTuple):
    """The scores of a batch, by their purpose.

    Args:
        better: ``(compared,)`` scores of the better answers at the tokens that tokenwise pooling compares.
        worse: ``(compared,)`` scores of the worse answers at the same places.
        pooled: ``(pooled,)`` scores whose mean is the reward of an answer: at its last token, or at all of them.
    """

    better: Tensor
    worse: Tensor
    pooled: Tensor


class RewardTask:
    """Phase 2: train the better answer to score above the worse one.

    The loss of a preference is the mean over its comparisons (InstructGPT, arXiv 2203.02155, equation 1):

        loss = - 1 / |order| * sum over (w, l) in order of log sigmoid(r_w - r_l)

    A ranking of K answers has K(K - 1) / 2 comparisons, a pair has one. So a preference weighs the same however many
    answers were ranked, and the K scores are computed once for all comparisons. Accuracy, the mean scores and the
    centering term are weighted in the same way, and the loss of a batch is the mean over its preferences.

    *loss* is what is trained: with margin, label smoothing and centering where the recipe has them. *nll* is the plain
    ``-log sigmoid(r_w - r_l)`` of the rewards that people read. It alone can be compared with guessing, ``ln 2``.

    Args:
        preferences: The examples: preferences among two or more answers.
        settings: The recipe's reward section: pooling and loss.
        packed: Whether the model computes token trees.
        pad_id: Id of the tokenizer's pad token.
    """

    name: Phase = REWARD
    accuracy = "accuracy"
    nll = "nll"

    def __init__(
        self, preferences: Sequence[EncodedPreference], settings: RewardSection, *, packed: bool, pad_id: int
    ) -> None:
        self.preferences = preferences
        self.pooling = settings.pooling
        self.loss = settings.loss
        self.packed = packed
        self.pad_id = pad_id

    @cached_property
    def _micro_batches(self) -> MicroBatches:
        examples = self.preferences
        trees = examples.trees() if isinstance(examples, KnowsTrees) else ((e.prompt, e.answers) for e in examples)
        return MicroBatches(trees, packed=self.packed)

    def lengths(self) -> list[int]:
        """Return the tokens of each preference: in token trees the prompt counts once, else once for each answer."""
        return self._micro_batches.tokens

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Cut preferences into micro-batches.

        Args:
            rows: Numbers of the preferences, each once.
            budget: Tokens that a micro-batch may have; a longer preference gets one of its own.
        """
        return self._micro_batches.cut(rows, budget)

    def collate(self, rows: Sequence[int]) -> RewardBatch:
        """Lay out each prompt with each of its answers, and find the tokens whose scores are needed.

        Args:
            rows: Numbers of the preferences.
        """
        preferences = [self.preferences[row] for row in rows]
        sequences = [sequence for each in preferences for sequence in each.sequences]
        layout = lay_out(sequences, packed=self.packed, pad_id=self.pad_id)
        better, worse, margin, preference = _comparisons(preferences)
        firsts = layout.lengths - 1
        if self.pooling == "mean":
            firsts = torch.tensor([len(each.prompt) for each in preferences for _ in each.answers])
        places, sequence = spans(firsts, layout.lengths)
        positions, comparison = layout.index[sequence, places], sequence.new_empty(0)
        if self.pooling == "tokenwise":
            places, comparison = spans(*compared_window(layout, better, worse))
            compared = layout.index[better[comparison], places], layout.index[worse[comparison], places]
            positions = torch.cat([*compared, positions])
        common = layout, positions, torch.unique(positions), len(preferences), tuple(rows)
        return RewardBatch(*common, sequence, comparison, better, worse, margin, preference)

    def weight(self, batch: RewardBatch) -> int:
        """Return the number of preferences.

        Args:
            batch: Some preferences.
        """
        return batch.examples

    def formula(self) -> str:
        """Describe how the loss differs from the nll; empty where they are the same."""
        loss, additions = self.loss, []
        if self.pooling == "tokenwise":
            additions.append("over the differing tokens")
        if loss.margin:
            additions.append("with the margins of the data")
        if loss.label_smoothing:
            additions.append(f"with label smoothing {loss.label_smoothing:g}")
        if loss.centering:
            additions.append(f"with {loss.centering:g} · (chosen + rejected)²")
        if not additions:
            return ""
        return (
            f"loss: the nll {', '.join(additions)} · nll: -log sigmoid(chosen - rejected) alone; guessing costs 0.6931"
        )

    def step(self, forward: Forward, batch: RewardBatch) -> Sums:
        """Compute the sums of loss, nll, right rankings (a tie is half right) and scores.

        Args:
            forward: The reward model's forward pass (see ``RewardModel``).
            batch: Some preferences, on the model's device.

        Returns:
            Sums over the preferences; of each preference, the mean over its comparisons.
        """
        scores = batch.split_scores(forward(**batch.inputs()))
        rewards = losses.mean_by_segment(scores.pooled, batch.sequence, len(batch.layout.lengths))
        chosen, rejected = rewards[batch.better], rewards[batch.worse]
        loss = self._ranking_loss(scores, chosen, rejected, batch)
        if self.loss.centering:
            loss = loss + self.loss.centering * losses.centering(chosen, rejected)
        figures = {"loss": loss} | _figures(chosen.detach(), rejected.detach())
        return {
            name: losses.mean_by_segment(values, batch.preference, batch.examples).sum()
            for name, values in figures.items()
        }

    def _ranking_loss(self, scores: TokenScores, chosen: Tensor, rejected: Tensor, batch: RewardBatch) -> Tensor:
        """Return the ``(comparisons,)`` losses: of the rewards, or the mean over the compared tokens."""
        margin, smoothing = batch.margin if self.loss.margin else None, self.loss.label_smoothing
        if self.pooling != "tokenwise":
            return losses.bradley_terry(chosen, rejected, margin, smoothing)
        margin = None if margin is None else margin[batch.comparison]
        by_token = losses.bradley_terry(scores.better, scores.worse, margin, smoothing)
        return losses.mean_by_segment(by_token, batch.comparison, len(batch.better))

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Return means over the preferences, and the standard deviation of all rewards.

        Args:
            sums: The results of ``step``, added up by name.
            weight: Number of preferences.
        """
        names = {"right": "accuracy", "chosen": "chosen_mean", "rejected": "rejected_mean"}
        mean = (sums["chosen"] + sums["rejected"]) / 2 / weight
        deviation = math.sqrt(max(0.0, sums["squares"] / weight - mean * mean))
        return {names.get(key, key): sums[key] / weight for key in ("loss", "nll", *names)} | {"reward_std": deviation}

    def origin(self, row: int) -> str:
        """Return where a preference came from.

        Args:
            row: Its number.
        """
        return origin_of(self.preferences, row)


def compared_window(layout: Layout, better: Tensor, worse: Tensor) -> tuple[Tensor, Tensor]:
    """Find what the tokenwise loss compares: from the first differing token to the end of the shorter sequence.

    DeepSpeed-Chat compares up to the end of the longer sequence, and so padding with words; this leaves that out. Where
    one sequence is the beginning of the other, the last token of the shorter one is compared.

    Args:
        layout: The sequences.
        better: ``(comparisons,)`` numbers of sequences.
        worse: ``(comparisons,)`` numbers of sequences.

    Returns:
        ``(comparisons,)`` places of the first compared tokens within the sequences, and ends.
    """
    ids = layout.input_ids.flatten()[layout.index]
    shorter = torch.minimum(layout.lengths[better], layout.lengths[worse])
    same = (ids[better] == ids[worse]).cumprod(1).sum(1)
    return torch.minimum(same, shorter - 1), shorter


def _comparisons(preferences: Sequence[EncodedPreference]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``better``, ``worse``, ``margin`` and ``preference`` of a ``RewardBatch``."""
    answers = torch.tensor([len(each.answers) for each in preferences])
    counts = torch.tensor([len(each.order) for each in preferences])
    order = torch.tensor([comparison for each in preferences for comparison in each.order])
    preference = torch.arange(len(preferences)).repeat_interleave(counts)
    better, worse = (order + (answers.cumsum(0) - answers)[preference, None]).unbind(1)
    margin = torch.tensor([margin for each in preferences for margin in each.margins])
    return better, worse, margin, preference


def _figures(chosen: Tensor, rejected: Tensor) -> Sums:
    """Compute the ``(comparisons,)`` figures that are reported of the rewards of better and worse answers."""
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    return {
        "nll": losses.bradley_terry(chosen, rejected),
        "right": right,
        "chosen": chosen,
        "rejected": rejected,
        "squares": (chosen**2 + rejected**2) / 2,
    }
