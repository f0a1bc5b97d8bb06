"""Phase 2: from preferences to scores, and from scores to the ranking loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rlhfcli.core import losses
from rlhfcli.core.packing.last_layer import unique_indices
from rlhfcli.core.packing.layout import Layout, lay_out, spans
from rlhfcli.core.packing.micro_batches import MicroBatches
from rlhfcli.core.tasks.task import Batch, Forward, KnowsTrees, Sums, origin_of
from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.files.run_layout import REWARD, Phase
from rlhfcli.recipe.schema import Reward


class RewardTask:
    """Phase 2: the better answer shall score higher than the worse one.

    The loss of a preference is the mean over its comparisons (InstructGPT, arXiv 2203.02155, equation 1):

        loss = - 1 / |order| * sum over (w, l) in order of log sigmoid(r_w - r_l)

    A ranking of K answers has K(K - 1) / 2 comparisons, a pair has one. So a preference weighs the same however many
    answers were ranked, and the K scores are computed once for all comparisons. Accuracy, the mean scores and the
    centering term are weighted in the same way, and the loss of a batch is the mean over its preferences.

    *loss* is what is trained: with margin, label smoothing and centering where the recipe has them. *nll* is the plain
    ``-log sigmoid(r_w - r_l)`` of the rewards that people read. It alone can be compared with guessing, ``ln 2``.

    Args:
        pairs: The examples: preferences of two or more answers.
        settings: The recipe's reward section: pooling and loss.
        packed: Whether the model computes token trees.
        pad_id: The tokenizer's pad.
    """

    name: Phase = REWARD
    accuracy = "accuracy"
    nll = "nll"

    def __init__(self, pairs: Sequence[EncodedPreference], settings: Reward, *, packed: bool, pad_id: int) -> None:
        self.pairs = pairs
        self.pooling = settings.pooling
        self.loss = settings.loss
        self.packed = packed
        self.pad_id = pad_id

    @cached_property
    def _micro_batches(self) -> MicroBatches:
        found = self.pairs
        trees = found.trees() if isinstance(found, KnowsTrees) else ((pair.prompt, pair.answers) for pair in found)
        return MicroBatches(trees, packed=self.packed)

    def lengths(self) -> list[int]:
        """Tokens of each preference: in token trees the prompt counts once, else once for each answer."""
        return self._micro_batches.tokens

    def cut(self, rows: Sequence[int], budget: int) -> list[list[int]]:
        """Micro-batches of so many tokens."""
        return self._micro_batches.cut(rows, budget)

    def collate(self, rows: Sequence[int]) -> Batch:
        """Lay out the prompt with each answer, and find the tokens whose scores are needed.

        ``target`` is the sequence that a score belongs to. With ``tokenwise`` pooling ``at`` is the compared tokens of
        the better answers, those of the worse ones, and the last token of each sequence; ``target`` is the comparison.
        """
        pairs = [self.pairs[row] for row in rows]
        sequences = [sequence for pair in pairs for sequence in pair.sequences]
        batch = lay_out(sequences, packed=self.packed, pad_id=self.pad_id)
        extra = _comparisons(pairs)
        if self.pooling == "tokenwise":
            better, worse = extra["better"], extra["worse"]
            places, target = spans(*compared(batch, better, worse))
            last = batch.index.gather(1, batch.lengths[:, None] - 1).squeeze(1)  # for accuracy: the score people use
            at = torch.cat([batch.index[better[target], places], batch.index[worse[target], places], last])
        else:
            answers = torch.tensor([len(pair.prompt) for pair in pairs for _ in pair.answers])
            begins = answers if self.pooling == "mean" else batch.lengths - 1
            places, target = spans(begins, batch.lengths)
            at = batch.index[target, places]
        return Batch(batch, at, unique_indices(at), target, len(pairs), tuple(rows), extra)

    def weight(self, batch: Batch) -> int:
        """Number of preferences."""
        return batch.examples

    def formula(self) -> str:
        """What the loss holds besides the nll, in words; empty where they are the same."""
        loss, more = self.loss, []
        if self.pooling == "tokenwise":
            more.append("over the differing tokens")
        if loss.margin:
            more.append("with the margins of the data")
        if loss.label_smoothing:
            more.append(f"with label smoothing {loss.label_smoothing:g}")
        if loss.centering:
            more.append(f"with {loss.centering:g} · (chosen + rejected)²")
        if not more:
            return ""
        return f"loss: the nll {', '.join(more)} · nll: -log sigmoid(chosen - rejected) alone; guessing costs 0.6931"

    def step(self, forward: Forward, batch: Batch) -> Sums:
        """Sums of loss, nll, right rankings (a tie is half right) and scores, each a mean over a preference's order."""
        scores = forward(**batch.inputs())
        sequences, extra = len(batch.layout.lengths), batch.extra
        margin = extra["margin"] if self.loss.margin else None
        if self.pooling == "tokenwise":
            left, right = scores[:-sequences].chunk(2)
            margin = None if margin is None else margin[batch.target]
            by_token = losses.bradley_terry(left, right, margin, self.loss.label_smoothing)
            loss = losses.mean_by_segment(by_token, batch.target, len(extra["better"]))
            answers = scores[-sequences:]
            chosen, rejected = answers[extra["better"]], answers[extra["worse"]]
        else:
            answers = losses.mean_by_segment(scores, batch.target, sequences)
            chosen, rejected = answers[extra["better"]], answers[extra["worse"]]
            loss = losses.bradley_terry(chosen, rejected, margin, self.loss.label_smoothing)
        if self.loss.centering:
            loss = loss + self.loss.centering * losses.centering(chosen, rejected)
        figures = {"loss": loss} | _ranking(chosen.detach(), rejected.detach())
        return {
            name: losses.mean_by_segment(values, extra["preference"], batch.examples).sum()
            for name, values in figures.items()
        }

    def summary(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        """Means over the preferences, and the standard deviation of all rewards."""
        names = {"right": "accuracy", "chosen": "chosen_mean", "rejected": "rejected_mean"}
        mean = (sums["chosen"] + sums["rejected"]) / 2 / weight
        spread = math.sqrt(max(0.0, sums["squares"] / weight - mean * mean))
        return {names.get(key, key): sums[key] / weight for key in ("loss", "nll", *names)} | {"reward_std": spread}

    def origin(self, row: int) -> str:
        """Where a preference came from."""
        return origin_of(self.pairs, row)


def compared(batch: Layout, better: Tensor, worse: Tensor) -> tuple[Tensor, Tensor]:
    """The positions that the token-wise loss compares: from the first differing token to the end of the shorter side.

    DeepSpeed-Chat goes on to the end of the longer side and so compares padding with words; that is left out. Where one
    side is the beginning of the other, the last token of the shorter one is compared.

    Args:
        batch: Where the sequences stand.
        better: ``(comparisons,)`` numbers of sequences.
        worse: ``(comparisons,)`` numbers of sequences.

    Returns:
        ``(comparisons,)`` first positions and ends.
    """
    ids = batch.ids.flatten()[batch.index]
    both = torch.minimum(batch.lengths[better], batch.lengths[worse])
    same = (ids[better] == ids[worse]).cumprod(1).sum(1)
    return torch.minimum(same, both - 1), both


def _comparisons(pairs: Sequence[EncodedPreference]) -> dict[str, Tensor]:
    """All comparisons of some preferences: which sequence is better and worse, by what margin, of which preference."""
    answers = torch.tensor([len(pair.answers) for pair in pairs])
    counts = torch.tensor([len(pair.order) for pair in pairs])
    order = torch.tensor([comparison for pair in pairs for comparison in pair.order])
    preference = torch.arange(len(pairs)).repeat_interleave(counts)
    better, worse = (order + (answers.cumsum(0) - answers)[preference, None]).unbind(1)
    margin = torch.tensor([margin for pair in pairs for margin in pair.margins])
    return {"better": better, "worse": worse, "margin": margin, "preference": preference}


def _ranking(chosen: Tensor, rejected: Tensor) -> Sums:
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    return {
        "nll": losses.bradley_terry(chosen, rejected),
        "right": right,
        "chosen": chosen,
        "rejected": rejected,
        "squares": (chosen**2 + rejected**2) / 2,
    }
