"""Rows are continued in a batch as they are alone, whatever a family keeps in its cache."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rlhfcli.core.families.continuation import ALONE, ANEW, STATES, TOGETHER, continuation_method, slow_reason
from rlhfcli.core.generation.decode import Decoding, generate, stream
from rlhfcli.errors import ModelError
from tests.core import families

OTHERS = {"mamba": STATES, "falcon-mamba": STATES, "recurrent-gemma": ANEW, "rwkv": ALONE, "gpt-1": ANEW, "bart": ALONE}
PROMPTS = families.token_ids([3, 17, 9, 1, 12])


def slow_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The obvious method: no cache, no padding, everything again for every token."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", families.STATES)
def test_every_prompt_gets_the_answer_that_it_gets_alone(family: str) -> None:
    model = families.causal_lm(family)
    endless = [slow_greedy(model, prompt, 10) for prompt in PROMPTS]
    ends = frozenset(token for answer in endless[:2] for token in answer[-1:])
    expected = [[*itertools.takewhile(lambda token: token not in ends, answer)] for answer in endless]
    assert generate(model, PROMPTS, Decoding(10), ends, 1) == expected
    assert [list(stream(model, prompt, Decoding(10), ends)) for prompt in PROMPTS[:2]] == expected[:2]
    assert len({len(answer) for answer in expected}) > 1, "some have to end before others"
    assert continuation_method(model) == OTHERS.get(family, TOGETHER)
    assert bool(slow_reason(model)) == (continuation_method(model) in (ALONE, ANEW))


def test_the_usual_families_share_batches() -> None:
    for family in families.CONFIGS | families.MASKED:
        assert continuation_method(families.causal_lm(family)) == TOGETHER, family


def test_the_method_is_tried_once_and_leaves_no_trace() -> None:
    model = families.causal_lm("llama").train()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    continuation_method(model)
    tried = len(calls)
    continuation_method(model)
    assert tried == len(calls) > 0 and model.training
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_that_computes_nothing_is_one_error() -> None:
    model = families.causal_lm("llama")
    model.model.layers[1] = torch.nn.Identity()  # as where a package is missing that a layer needs
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(5, 5)
    with pytest.raises(ModelError, match="LlamaForCausalLM cannot read 14 tokens: mat1 and mat2 shapes"):
        continuation_method(model)
