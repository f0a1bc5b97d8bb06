"""The loss of phase 1, against one dialogue at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rlhfcli.core.models.language_model import CausalLM
from rlhfcli.core.packing import probes
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.token_trees.tree_attention import TREES, attention
from rlhfcli.core.training.measure import measure_dialogues
from rlhfcli.data.encoding.encoded import EncodedDialogue
from tests.core import families
from tests.core.tasks.examples import dialogues


@pytest.mark.parametrize("family", ["opt", "llama", "bloom", "gemma2"])
@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_sft_loss_is_the_sum_over_single_dialogues(family: str, loss_on: str) -> None:
    model = families.causal_lm(family)
    packed = probes.trees_unsupported(model) is None
    task = SftTask(dialogues(), loss_on, packed=packed, pad_id=1)
    batch = task.collate([2, 0, 3, 1])
    with torch.no_grad(), attention(model, TREES if packed else None):
        sums = task.step(CausalLM(model), batch)
    expected, tokens = 0.0, 0
    for dialogue in dialogues():
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
    branching = [EncodedDialogue(row, [(min(11, len(row) - 3), len(row))]) for row in ids]
    gradients, counted = [], []
    for together in (True, False):
        model = families.causal_lm(family)
        task = SftTask(branching, loss_on, packed=True, pad_id=1)
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
    small, large = (measure_dialogues(model, dialogues(), "assistant", budget) for budget in (8, 1000))
    assert small.tokens == large.tokens and small.correct == large.correct
    assert small.nll == pytest.approx(large.nll, rel=1e-6)
