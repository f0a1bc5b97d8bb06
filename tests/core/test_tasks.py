"""From examples to losses: against one dialogue, or one pair, at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from rlhfcli.core import layout
from rlhfcli.core.measure import measure, measure_dialogues
from rlhfcli.core.reward_model import RewardModel
from rlhfcli.core.tasks import CausalLM, RewardTask, SftTask, compared
from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.recipe.schema import Reward
from tests.core import families

CPU = torch.device("cpu")


def _dialogues() -> list[EncodedDialogue]:
    rows = families.token_ids([12, 25, 7, 18])
    return [
        EncodedDialogue(rows[0], [(4, 12)]),
        EncodedDialogue(rows[1], [(5, 9), (15, 25)]),
        EncodedDialogue(rows[2], [(0, 7)]),  # nothing before the first word: that token cannot be learnt
        EncodedDialogue(rows[3], [(17, 18)]),
    ]


def _pairs() -> list[EncodedPair]:
    prompts = families.token_ids([5, 11, 3], seed=1)
    chosen = families.token_ids([4, 9, 2], seed=2)
    rejected = families.token_ids([7, 3, 2], seed=3)
    rejected[0][:2] = chosen[0][:2]  # differ from the third token on
    return [EncodedPair(*row, margin=0.5 * i) for i, row in enumerate(zip(prompts, chosen, rejected, strict=True))]


@pytest.mark.parametrize("family", ["opt", "llama", "bloom", "gemma2"])
@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_sft_loss_is_the_sum_over_single_dialogues(family: str, loss_on: str) -> None:
    model = families.causal_lm(family)
    packed = layout.packs_exactly(model)
    task = SftTask(_dialogues(), loss_on, packed=packed, pad_id=1)
    batch = task.collate([2, 0, 3, 1])
    with torch.no_grad(), layout.attention(model, layout.PACKED if packed else None):
        sums = task.step(CausalLM(model), batch)
    expected, tokens = 0.0, 0
    for dialogue in _dialogues():
        logits = model(torch.tensor([dialogue.ids])).logits[0].detach()
        for first, last in dialogue.spans if loss_on == "assistant" else [(0, len(dialogue.ids))]:
            for place in range(max(first, 1), last):
                expected += float(F.cross_entropy(logits[place - 1], torch.tensor(dialogue.ids[place])))
                tokens += 1
    assert task.weight(batch) == tokens
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)


def test_perplexity_does_not_depend_on_the_batches() -> None:
    model = families.causal_lm("opt")
    small, large = (measure_dialogues(model, _dialogues(), "assistant", budget) for budget in (8, 1000))
    assert small.tokens == large.tokens and small.correct == large.correct
    assert small.nll == pytest.approx(large.nll, rel=1e-6)


def _slow_pair_loss(model: RewardModel, pair: EncodedPair, settings: Reward) -> float:
    """One pair at a time, straight from the definitions."""
    tokens = []
    for answer in (pair.chosen, pair.rejected):
        states = getattr(model.model, model.model.base_model_prefix)(torch.tensor([pair.prompt + answer]))
        tokens.append([float(s) for s in states.last_hidden_state[0] @ model.score.weight[0]])
    margin = pair.margin if settings.loss.margin else 0.0
    begin = len(pair.prompt)
    chosen, rejected = (scores[-1] for scores in tokens)
    if settings.pooling == "mean":
        chosen, rejected = (sum(scores[begin:]) / len(scores[begin:]) for scores in tokens)
    differences = [chosen - rejected - margin]
    if settings.pooling == "tokenwise":
        both = min(len(pair.chosen), len(pair.rejected))
        first = next(i for i in range(both) if pair.chosen[i] != pair.rejected[i])
        differences = [tokens[0][begin + i] - tokens[1][begin + i] - margin for i in range(first, both)]
    e = settings.loss.label_smoothing
    losses = [(1 - e) * math.log1p(math.exp(-d)) + e * math.log1p(math.exp(d)) for d in differences]
    return sum(losses) / len(losses) + settings.loss.centering * (chosen + rejected) ** 2


@pytest.mark.parametrize("family", ["opt", "opt-350m", "llama", "bloom"])
@pytest.mark.parametrize("pooling", ["last", "mean", "tokenwise"])
@pytest.mark.parametrize("loss", [{}, {"margin": True, "label_smoothing": 0.1, "centering": 0.3}])
def test_reward_loss_is_the_sum_over_single_pairs(family: str, pooling: str, loss: dict[str, object]) -> None:
    model = RewardModel(families.classifier(family))
    packed = layout.packs_exactly(model.model)
    settings = Reward.model_validate({"pooling": pooling, "loss": loss})
    task = RewardTask(_pairs(), settings, packed=packed, pad_id=1)
    batch = task.collate([1, 0, 2])
    with torch.no_grad(), layout.attention(model.model, layout.PACKED if packed else None):
        sums = task.step(model, batch)
    with torch.no_grad():
        expected = sum(_slow_pair_loss(model, pair, settings) for pair in _pairs())
    assert task.weight(batch) == 3
    assert float(sums["loss"]) == pytest.approx(expected, rel=2e-5)


def test_the_compared_window_ends_with_the_shorter_answer() -> None:
    assert compared(EncodedPair([1, 2], [5, 6, 7, 8], [5, 9])) == (3, 4)
    assert compared(EncodedPair([1, 2], [5, 6], [7, 6, 3])) == (2, 4)
    assert compared(EncodedPair([1], [5, 6], [5, 6, 7])) == (
        2,
        3,
    )  # one is the beginning of the other: its last token


def test_longer_padding_changes_no_tokenwise_loss() -> None:
    model = RewardModel(families.classifier("opt"))
    settings = Reward.model_validate({"pooling": "tokenwise"})
    pairs = [*_pairs(), EncodedPair(*families.token_ids([30, 20, 20], seed=7))]
    task = RewardTask(pairs, settings, packed=False, pad_id=1)
    with torch.no_grad():
        alone = float(task.step(model, task.collate([0, 1, 2]))["loss"])
        beside = float(task.step(model, task.collate([0, 1, 2, 3]))["loss"])
        last = float(task.step(model, task.collate([3]))["loss"])
    assert beside - last == pytest.approx(alone, abs=1e-5)


def test_a_constant_reward_model_is_half_right() -> None:
    model = RewardModel(families.classifier("opt"))
    torch.nn.init.zeros_(model.score.weight)
    task = RewardTask(_pairs(), Reward(), packed=False, pad_id=1)
    figures = measure(task, model, [task.collate([0, 1, 2])], CPU)
    assert figures["accuracy"] == 0.5 and figures["loss"] == pytest.approx(math.log(2)) and figures["weight"] == 3
