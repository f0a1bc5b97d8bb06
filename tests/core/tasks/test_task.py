"""From examples to losses: against one dialogue, or one pair, at a time."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.packing import layout, probes
from rlhfcli.core.tasks.reward import RewardTask, compared_window
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.training.measure import measure, measure_dialogues
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.store import prepared
from rlhfcli.recipe.schema import RewardSection
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


def _pairs() -> list[EncodedPreference]:
    """Pairs, a ranking of four answers and a partial one of eight."""
    prompts = families.token_ids([5, 11, 3, 9, 6], seed=1)
    chosen = families.token_ids([4, 9, 2], seed=2)
    rejected = families.token_ids([7, 3, 2], seed=3)
    rejected[0][:2] = chosen[0][:2]  # differ from the third token on
    two = zip(prompts[:3], chosen, rejected, strict=True)
    four = families.token_ids([6, 2, 8, 4], seed=4)
    four[2][:4] = four[0][:4]
    every = list(combinations(range(4), 2))
    eight = families.token_ids([3, 5, 1, 4, 6, 2, 7, 3], seed=5)
    some = [(0, 7), (1, 4), (0, 2), (3, 5)]
    return [
        *(EncodedPreference.pair(*row, margin=0.5 * i) for i, row in enumerate(two)),
        EncodedPreference(prompts[3], four, every, [0.1 * (b - a) for a, b in every]),
        EncodedPreference(prompts[4], eight, some, [0.0, 0.3, 0.2, 1.0]),
    ]


@pytest.mark.parametrize("family", ["opt", "llama", "bloom", "gemma2"])
@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_sft_loss_is_the_sum_over_single_dialogues(family: str, loss_on: str) -> None:
    model = families.causal_lm(family)
    packed = probes.trees_unsupported(model) is None
    task = SftTask(_dialogues(), loss_on, packed=packed, pad_id=1)
    batch = task.collate([2, 0, 3, 1])
    with torch.no_grad(), attention(model, TREES if packed else None):
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


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "gpt2"])
def test_dialogues_with_one_beginning_share_it_and_learn_the_same(family: str, loss_on: str) -> None:
    """A system prompt of nine tokens, then conversations that part in the user's or in the assistant's words."""
    system, one, other, more, rest = families.token_ids([9, 6, 4, 7, 5])
    ids = [system + one, system + one + more, system + other, system + one + rest, system]
    dialogues = [EncodedDialogue(row, [(min(11, len(row) - 3), len(row))]) for row in ids]
    gradients, counted = [], []
    for together in (True, False):
        model = families.causal_lm(family)
        task = SftTask(dialogues, loss_on, packed=True, pad_id=1)
        batches = [task.collate(rows) for rows in ([[3, 1, 0, 4, 2]] if together else [[0], [1], [2], [3], [4]])]
        with attention(model, TREES):
            loss = torch.stack([task.step(CausalLM(model), batch)["loss"] for batch in batches]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()})
        counted.append((sum(map(task.weight, batches)), sum(batch.layout.tokens for batch in batches)))
    assert counted[0][0] == counted[1][0] and counted[0][1] == 9 + 6 + 7 + 4 + 5 and counted[1][1] == sum(map(len, ids))
    for name, alone in gradients[1].items():
        scale = gradients[1][name.replace("k_proj.bias", "k_proj.weight")].abs().max()
        assert (gradients[0][name] - alone).abs().max() <= 1e-5 * scale, name


def test_perplexity_does_not_depend_on_the_batches() -> None:
    model = families.causal_lm("opt")
    small, large = (measure_dialogues(model, _dialogues(), "assistant", budget) for budget in (8, 1000))
    assert small.tokens == large.tokens and small.correct == large.correct
    assert small.nll == pytest.approx(large.nll, rel=1e-6)


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
    task = RewardTask(_pairs(), settings, packed=packed, pad_id=1)
    batch = task.collate([1, 4, 0, 2, 3])
    with torch.no_grad(), attention(model.model, TREES if packed else None):
        sums = task.step(model, batch)
        expected = [_slow_loss(model, pair, settings) for pair in _pairs()]
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
        task = RewardTask(_pairs(), settings, packed=together, pad_id=1)
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
    lengths = [(len(pair.prompt), sum(map(len, pair.answers)), len(pair.answers)) for pair in _pairs()]
    for packed in (True, False):
        task = RewardTask(_pairs(), RewardSection(), packed=packed, pad_id=1)
        assert task.lengths() == [p * (1 if packed else k) + answers for p, answers, k in lengths]
    batch = RewardTask(_pairs(), RewardSection(), packed=True, pad_id=1).collate([4])
    assert batch.layout.tokens == lengths[4][0] + lengths[4][1]  # no two of its answers begin alike


def test_longer_padding_changes_no_tokenwise_loss() -> None:
    model = RewardModel(families.classifier("opt"))
    settings = RewardSection.model_validate({"pooling": "tokenwise"})
    pairs = [*_pairs()[:3], EncodedPreference.pair(*families.token_ids([30, 20, 20], seed=7))]
    task = RewardTask(pairs, settings, packed=False, pad_id=1)
    with torch.no_grad():
        alone = float(task.step(model, task.collate([0, 1, 2]))["loss"])
        beside = float(task.step(model, task.collate([0, 1, 2, 3]))["loss"])
        last = float(task.step(model, task.collate([3]))["loss"])
    assert beside - last == pytest.approx(alone, abs=1e-5)


def test_a_constant_reward_model_is_half_right() -> None:
    model = RewardModel(families.classifier("opt"))
    torch.nn.init.zeros_(model.score.weight)
    task = RewardTask(_pairs(), RewardSection(), packed=False, pad_id=1)
    figures = measure(task, model, [task.collate([0, 1, 2]), task.collate([3, 4])], CPU)
    assert figures["accuracy"] == 0.5 and figures["loss"] == pytest.approx(math.log(2)) and figures["weight"] == 5


@pytest.mark.parametrize("packed", [True, False])
def test_stored_examples_are_cut_like_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """Without a Python number for each of their tokens."""
    monkeypatch.setattr(prepared, "_BATCH", 2)  # several record batches
    for phase, examples in (("sft", _dialogues()), ("reward", _pairs())):
        writer = prepared.Writer(tmp_path, phase, "train")  # type: ignore[arg-type]
        for example in examples:
            writer.write(example, "here")  # type: ignore[arg-type]
        writer.close()
    dialogues = prepared.StoredDialogues(tmp_path / "sft_train.arrow")
    pairs = prepared.StoredPairs(tmp_path / "reward_train.arrow")
    expected: list[Any] = [
        SftTask(_dialogues(), "assistant", packed=packed, pad_id=1),
        RewardTask(_pairs(), RewardSection(), packed=packed, pad_id=1),
    ]
    monkeypatch.setattr(prepared._Stored, "__getitem__", lambda *_: pytest.fail("an example was made"))
    found: list[Any] = [
        SftTask(dialogues, "assistant", packed=packed, pad_id=1),
        RewardTask(pairs, RewardSection(), packed=packed, pad_id=1),
    ]
    for one, other in zip(expected, found, strict=True):
        assert one.lengths() == other.lengths()
        rows = range(len(one.lengths()))
        assert [one.cut(rows, budget) for budget in (8, 20, 999)] == [
            other.cut(rows, budget) for budget in (8, 20, 999)
        ]
