"""The loss of phase 2, against one preference at a time."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing import layout, probes
from rlhfcli.core.tasks.reward import RewardTask, compared_window
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.training.measure import measure
from rlhfcli.data.encoding.encoded import EncodedPreference
from rlhfcli.recipe.schema import RewardSection
from tests.core import families
from tests.core.tasks.examples import preferences

CPU = torch.device("cpu")


def _slow_loss(model: RewardModel, pair: EncodedPreference, settings: RewardSection) -> dict[str, float]:
    """One sequence at a time, straight from the definitions."""
    scores, begin = [], len(pair.prompt)
    for sequence in pair.sequences:
        states = getattr(model.model, model.model.base_model_prefix)(torch.tensor([sequence]))
        scores.append([float(s) for s in states.last_hidden_state[0] @ model.score.weight[0]])
    sums = {"loss": 0.0, "nll": 0.0, "right": 0.0, "chosen": 0.0, "rejected": 0.0, "squares": 0.0}
    for (b, w), margin in zip(pair.order, pair.margins, strict=True):
        chosen, rejected = scores[b][-1], scores[w][-1]
        margin = margin if settings.loss.margin else 0.0
        if settings.pooling == "mean":
            chosen, rejected = (sum(scores[i][begin:]) / len(pair.answers[i]) for i in (b, w))
        differences = [chosen - rejected - margin]
        if settings.pooling == "tokenwise":
            both = min(len(pair.answers[b]), len(pair.answers[w]))
            first = next(i for i in range(both) if pair.answers[b][i] != pair.answers[w][i])
            differences = [scores[b][begin + i] - scores[w][begin + i] - margin for i in range(first, both)]
        e = settings.loss.label_smoothing
        losses = [(1 - e) * math.log1p(math.exp(-d)) + e * math.log1p(math.exp(d)) for d in differences]
        loss = sum(losses) / len(losses) + settings.loss.centering * (chosen + rejected) ** 2
        parts = {"loss": loss, "right": float(chosen > rejected), "chosen": chosen, "rejected": rejected}
        parts["nll"] = math.log1p(math.exp(rejected - chosen))
        parts["squares"] = (chosen**2 + rejected**2) / 2
        sums = {name: sums[name] + parts[name] / len(pair.order) for name in sums}
    return sums


@pytest.mark.parametrize("family", ["opt", "opt-350m", "llama", "bloom"])
@pytest.mark.parametrize("pooling", ["last", "mean", "tokenwise"])
@pytest.mark.parametrize("loss", [{}, {"margin": True, "label_smoothing": 0.1, "centering": 0.3}])
def test_reward_loss_is_the_mean_over_the_comparisons_of_each_preference(
    family: str, pooling: str, loss: dict[str, object]
) -> None:
    model = RewardModel(families.classifier(family))
    packed = probes.trees_unsupported(model.model) is None
    settings = RewardSection.model_validate({"pooling": pooling, "loss": loss})
    task = RewardTask(preferences(), settings, packed=packed, pad_id=1)
    batch = task.collate([1, 4, 0, 2, 3])
    with torch.no_grad(), attention(model.model, TREES if packed else None):
        sums = task.step(model, batch)
        expected = [_slow_loss(model, pair, settings) for pair in preferences()]
    assert task.weight(batch) == 5
    for name, value in sums.items():
        assert float(value) == pytest.approx(sum(one[name] for one in expected), rel=2e-5), name


@pytest.mark.parametrize("family", ["opt", "llama", "gemma2"])
@pytest.mark.parametrize("pooling", ["last", "mean", "tokenwise"])
def test_reward_gradients_are_those_of_padded_preferences_one_at_a_time(family: str, pooling: str) -> None:
    settings = RewardSection.model_validate({"pooling": pooling, "loss": {"centering": 0.1}})
    gradients = []
    for together in (True, False):
        model = RewardModel(families.classifier(family))
        task = RewardTask(preferences(), settings, packed=together, pad_id=1)
        with attention(model.model, TREES if together else None):
            for rows in [[3, 0, 4, 2, 1]] if together else [[0], [1], [2], [3], [4]]:
                task.step(model, task.collate(rows))["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, alone in gradients[1].items():
        scale = gradients[1][name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (gradients[0][name] - alone).abs().max() <= 1e-5 * scale, name


def test_a_preference_weighs_the_same_however_many_answers_it_ranks() -> None:
    """Four equal answers cost what two equal answers cost: ln 2."""
    model = RewardModel(families.classifier("opt"))
    prompt, answer = families.token_ids([5, 3])
    ranking = EncodedPreference(prompt, [answer] * 4, list(combinations(range(4), 2)), [0.0] * 6)
    pair = EncodedPreference.pair(prompt, answer, answer)
    settings = RewardSection.model_validate({"loss": {"centering": 0.0}})
    task = RewardTask([ranking, pair], settings, packed=True, pad_id=1)
    with torch.no_grad(), attention(model.model, TREES):
        figures = measure(task, model, [task.collate([0, 1])], CPU)
    assert figures["loss"] == pytest.approx(math.log(2)) and figures["accuracy"] == 0.5 and figures["weight"] == 2


@pytest.mark.parametrize("packed", [True, False])
def test_the_compared_window_ends_with_the_shorter_answer(packed: bool) -> None:
    def window(prompt: list[int], *answers: list[int]) -> tuple[int, int]:
        batch = layout.lay_out([prompt + answer for answer in answers], packed=packed, pad_id=6)
        begins, ends = compared_window(batch, torch.tensor([0]), torch.tensor([1]))
        return int(begins), int(ends)

    assert window([1, 2], [5, 6, 7, 8], [5, 9]) == (3, 4)
    assert window([1, 2], [5, 6], [7, 6, 3]) == (2, 4)
    assert window([1], [5, 6], [5, 6, 7]) == (2, 3)  # one is the beginning of the other: its last token
    assert window([1], [5], [5, 6, 7]) == (1, 2)  # although the padding looks like the next token


def test_the_prompt_is_counted_once_where_it_is_computed_once() -> None:
    lengths = [(len(pair.prompt), sum(map(len, pair.answers)), len(pair.answers)) for pair in preferences()]
    for packed in (True, False):
        task = RewardTask(preferences(), RewardSection(), packed=packed, pad_id=1)
        assert task.lengths() == [p * (1 if packed else k) + answers for p, answers, k in lengths]
    batch = RewardTask(preferences(), RewardSection(), packed=True, pad_id=1).collate([4])
    assert batch.layout.tokens == lengths[4][0] + lengths[4][1]  # no two of its answers begin alike


def test_longer_padding_changes_no_tokenwise_loss() -> None:
    model = RewardModel(families.classifier("opt"))
    settings = RewardSection.model_validate({"pooling": "tokenwise"})
    pairs = [*preferences()[:3], EncodedPreference.pair(*families.token_ids([30, 20, 20], seed=7))]
    task = RewardTask(pairs, settings, packed=False, pad_id=1)
    with torch.no_grad():
        alone = float(task.step(model, task.collate([0, 1, 2]))["loss"])
        beside = float(task.step(model, task.collate([0, 1, 2, 3]))["loss"])
        last = float(task.step(model, task.collate([3]))["loss"])
    assert beside - last == pytest.approx(alone, abs=1e-5)


def test_a_constant_reward_model_is_half_right() -> None:
    model = RewardModel(families.classifier("opt"))
    torch.nn.init.zeros_(model.score.weight)
    task = RewardTask(preferences(), RewardSection(), packed=False, pad_id=1)
    figures = measure(task, model, [task.collate([0, 1, 2]), task.collate([3, 4])], CPU)
    assert figures["accuracy"] == 0.5 and figures["loss"] == pytest.approx(math.log(2)) and figures["weight"] == 5
