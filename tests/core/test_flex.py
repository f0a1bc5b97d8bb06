"""FlexAttention over a forest: its rule, its blocks, and the results of the rectangles, so far as a CPU can tell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from rlhfcli.core import flex, layout, ways
from rlhfcli.core.attention import TREES, Plan, attention, make_plan
from rlhfcli.core.flex import BLOCK, FLEX, block_mask
from rlhfcli.core.forest import grow
from rlhfcli.core.tree_mask import sees
from tests.core import families
from tests.core.test_forest import SEQUENCES

_ENDS = ([3], [4, 5], [6] * 90)
ROWS = [[*families.token_ids([length], seed=9)[0], *end] for length in (150, 120, 90) for end in _ENDS]
WINDOWS = [None, 1, 40, 128, 200]


def _plan(sequences: list[list[int]]) -> Plan:
    return make_plan(grow(sequences))


def _seen(plan: Plan, window: int | None) -> Tensor:
    """What a kernel computes: whole where a block is full, asked cell by cell where it is listed, else nothing."""
    mask, count = block_mask(plan, window), len(plan.ends)
    cells = torch.arange(count)
    asked = mask.mask_mod(torch.tensor(0), torch.tensor(0), cells[:, None], cells)
    listed = (mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)
    seen = torch.zeros(count, count, dtype=torch.bool)
    for kind, (numbers, indices) in enumerate(listed):
        assert numbers is not None and indices is not None
        for block, number in enumerate(numbers[0, 0].tolist()):
            for other in indices[0, 0, block, :number].tolist():
                place = slice(block * BLOCK, (block + 1) * BLOCK), slice(other * BLOCK, (other + 1) * BLOCK)
                assert not seen[place].any()  # a block is listed once
                seen[place] = asked[place] if kind == 0 else True
    return seen


@pytest.mark.parametrize("window", WINDOWS)
def test_the_blocks_hold_what_the_rule_says(window: int | None) -> None:
    plan = _plan(ROWS)
    assert len(plan.ends) > 3 * BLOCK
    assert torch.equal(_seen(plan, window), sees(plan, window))


@settings(max_examples=50, deadline=None)
@given(SEQUENCES)
def test_the_blocks_of_any_forest(sequences: list[list[int]]) -> None:
    plan = _plan([sequence * 30 for sequence in sequences])
    for window in (None, 50):
        assert torch.equal(_seen(plan, window), sees(plan, window))


def test_a_mask_is_made_once_for_all_layers() -> None:
    plan = _plan(ROWS)
    assert block_mask(plan) is block_mask(plan)
    assert block_mask(plan, 7) is not block_mask(plan)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["opt", "llama", "gemma2", "mistral"])  # plain, fewer key heads, soft cap, window
@torch.no_grad()
def test_the_same_as_the_rectangles(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule carried out cell by cell; the compiled kernel is the next test."""
    called = []
    monkeypatch.setattr(flex, "_compiled", lambda: lambda *a, **k: called.append(1) or flex_attention(*a, **k))
    _compare(family)
    assert called


@pytest.mark.slow
@pytest.mark.parametrize("family", ["opt", "gemma2"])
@torch.no_grad()
def test_compiled_for_a_cpu(family: str) -> None:
    _compare(family)


def _compare(family: str) -> None:
    model = families.causal_lm(family)
    backbone = getattr(model, model.base_model_prefix)
    inputs = layout.lay_out([[t % 100 for t in row[:120]] for row in ROWS], packed=True, pad_id=1).inputs()
    assert inputs["input_ids"].shape[1] > BLOCK
    found = []
    for name in (TREES, FLEX):
        with attention(model, name):
            found.append(backbone(**inputs).last_hidden_state)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_where_it_cannot_be_used_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no kernel for this head\nand much more")

    monkeypatch.setattr(flex, "_compiled", broken)
    assert flex.why_not(families.causal_lm("llama"), bf16=False) == "no kernel for this head"


def test_other_results_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_compiled", lambda: lambda query, *_, **__: query)
    assert flex.why_not(families.causal_lm("llama"), bf16=False) == "it gives other results here"


def test_on_a_cpu_the_rectangles_stay() -> None:
    model = families.causal_lm("llama")
    way = ways.way_of(model)
    assert ways.fastest(way, type("Module", (), {"model": model, "bf16": False})) is way
