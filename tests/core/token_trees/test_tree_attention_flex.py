"""FlexAttention over token trees, as far as a CPU can tell: the rule, its blocks, the forward pass, tracing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torch_flex

from rlhfcli.core.packing import probes, strategy
from rlhfcli.core.token_trees import tree_attention_flex
from rlhfcli.core.token_trees.attention_plan import AttentionPlan, make_plan
from rlhfcli.core.token_trees.forest import build_forest
from rlhfcli.core.token_trees.tree_attention import TREES, tree_attention
from rlhfcli.core.token_trees.tree_mask import sees
from tests.core import families
from tests.core.packing.test_layout import FORESTS

LONG = FORESTS["long"] + FORESTS["several trees"] + FORESTS["nested"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 6},
    "soft cap": {"softcap": 2.0, "scaling": 0.7},
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(tree_attention_flex, "_compiled", lambda: torch_flex.flex_attention)


def _rows(tokens: int, heads: int = 4, key_heads: int = 4, dimension: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, count, tokens, dimension) for count in (heads, key_heads, key_heads)]


def _same(plan: AttentionPlan, rows: list[torch.Tensor], options: dict[str, Any]) -> None:
    module = SimpleNamespace(num_key_value_groups=rows[0].shape[1] // rows[1].shape[1], training=False)
    expected, _ = tree_attention(module, *rows, None, plan=plan, **options)  # type: ignore[arg-type]
    result, _ = tree_attention_flex.flex_tree_attention(module, *rows, None, plan=plan, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=12),
    st.sampled_from([None, 1, 3, 9]),
    st.sampled_from([4, 8]),
)
def test_blocks_and_rule_are_the_mask(sequences: list[list[int]], window: int | None, size: int) -> None:
    """An empty block has nothing to see (but for a window, where it may be kept), a full one is seen by all."""
    plan = make_plan(build_forest(sequences))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention_flex, "BLOCK", size)
        blocks = tree_attention_flex.block_mask(plan, window)
    count, whole = len(plan.ends), sees(plan, window)
    side = -(-count // size)
    square = torch.zeros(side * size, side * size, dtype=torch.bool)
    square[:count, :count] = whole
    real = torch.zeros_like(square)
    real[:count, :count] = True
    cells = (side, size, side, size)
    some = square.view(cells).any(3).any(1)
    everything = (square | ~real).view(cells).all(3).all(1) & some
    kept = [_dense(n, which) for n, which in ((blocks.kv_num_blocks, blocks.kv_indices), _full(blocks))]
    assert not (kept[0] & kept[1]).any()
    assert not (some & ~(kept[0] | kept[1])).any(), "a block that somebody sees is left out"
    assert not (kept[1] & ~everything).any(), "a block that somebody does not see is taken for full"
    if window is None:
        assert torch.equal(kept[0] | kept[1], some)
        assert torch.equal(kept[1], everything & ~torch.eye(side, dtype=torch.bool))
    row = torch.arange(count)
    assert torch.equal(blocks.mask_mod(row, row, row[:, None], row), whole)


def test_the_blocks_of_the_introduction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_attention_flex, "BLOCK", 2)
    blocks = tree_attention_flex.block_mask(make_plan(build_forest([[0, 1, 2, 3], [0, 1, 2, 4], [5, 6, 7]])))
    partial, full = _dense(blocks.kv_num_blocks, blocks.kv_indices), _dense(*_full(blocks))
    drawn = ["".join("#" if full[q, k] else "/" if partial[q, k] else "." for k in range(4)) for q in range(4)]
    assert drawn == ["/...", "#/..", "///.", "..//"]


def _full(blocks: torch_flex.BlockMask) -> tuple[torch.Tensor, torch.Tensor]:
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    return blocks.full_kv_num_blocks, blocks.full_kv_indices


def _dense(counts: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(which.shape[-2:], dtype=torch.bool)
    for row, (count, blocks) in enumerate(zip(counts.flatten().tolist(), which[0, 0].tolist(), strict=True)):
        dense[row, blocks[:count]] = True
    return dense


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("case", CASES)
def test_same_as_the_rectangles(case: str, key_heads: int) -> None:
    plan = make_plan(build_forest(LONG))
    assert len(plan.ends) > tree_attention_flex.BLOCK
    _same(plan, _rows(len(plan.ends), key_heads=key_heads), CASES[case])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("family", ["opt", "llama", "gemma2", "mistral"])
def test_models_without_trained_weights_can_use_it_even_on_a_cpu(family: str) -> None:
    model = families.causal_lm(family).requires_grad_(False)
    assert probes.flex_unsupported(model, bf16=False) is None
    assert probes.flex_unsupported(model, bf16=True) is None


@pytest.mark.usefixtures("eager")
def test_the_blocks_are_computed_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int | None] = []
    rule: Callable[..., Any] = tree_attention_flex._rule
    monkeypatch.setattr(tree_attention_flex, "_rule", lambda plan, window: made.append(window) or rule(plan, window))
    model = families.causal_lm("gemma2").requires_grad_(False)
    probes._states_and_gradient(model, 4, False, probes.attention(model, tree_attention_flex.FLEX))
    assert sorted(made, key=str) == [6, None]  # it has a layer of each kind


@pytest.mark.usefixtures("eager")
def test_the_missing_backward_pass_on_a_cpu_is_the_reason_given() -> None:
    reason = probes.flex_unsupported(families.causal_lm("opt"), bf16=False)
    assert reason is not None and "does not support backward on CPU" in reason


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_attention_flex, "_compiled", lambda: lambda query, *_, **__: query)
    model = families.causal_lm("opt").requires_grad_(False)
    assert probes.flex_unsupported(model, bf16=False) == "it gives other results here"


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {}])
def test_dropout_and_short_rows_go_through_the_rectangles(options: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(tree_attention_flex, "_compiled", lambda: pytest.fail("compiled"))
    plan = make_plan(build_forest(LONG if options else FORESTS["apart"]))
    rows = _rows(len(plan.ends))
    result, _ = tree_attention_flex.flex_tree_attention(torch.nn.Module(), *rows, None, plan=plan, **options)
    assert result.shape == (1, len(plan.ends), 4, 16)


def test_additions_of_a_family_are_refused() -> None:
    plan = make_plan(build_forest(LONG))
    rows = _rows(len(plan.ends))
    with pytest.raises(ValueError, match="its attention has s_aux"):
        tree_attention_flex.flex_tree_attention(torch.nn.Module(), *rows, None, plan=plan, s_aux=torch.zeros(4))


@pytest.mark.parametrize(
    ("reason", "attention", "description"),
    [
        (None, tree_attention_flex.FLEX, "token trees, FlexAttention"),
        ("no Triton", TREES, "token trees: no FlexAttention, since no Triton"),
    ],
)
def test_a_gpu_uses_it_where_it_works_and_else_the_reason_is_given(
    reason: str | None, attention: str, description: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy, "flex_unsupported", lambda *_, **__: reason)
    gpu, cpu = (SimpleNamespace(device=torch.device(kind)) for kind in ("cuda", "cpu"))
    trees = strategy.Strategy(TREES)
    found = strategy.with_flex_attention(trees, gpu, bf16=True)
    assert (found.attention, found.description) == (attention, description)
    assert strategy.with_flex_attention(trees, cpu, bf16=True) is trees
    padded = strategy.Strategy(None, "it has to be")
    assert strategy.with_flex_attention(padded, gpu, bf16=True) is padded


def test_any_number_of_lengths_is_traced_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU; what is left out is the kernel, which torch 2.13 cannot compile for a CPU at any length."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(torch_flex.flex_attention, dynamic=True, backend=counter)
    monkeypatch.setattr(tree_attention_flex, "_compiled", lambda: compiled)
    lengths = set()
    for branches in (4, 7, 9, 12, 15, 20, 5, 6):
        prompt = families.token_ids([40], seed=branches)[0]
        plan = make_plan(build_forest([prompt + answer for answer in families.token_ids([50 + branches] * branches)]))
        with torch.no_grad():
            _same(plan, _rows(len(plan.ends), key_heads=2), {})
        lengths.add(len(plan.ends))
    assert len(lengths) == 8 and counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_same_as_the_rectangles_compiled(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(
        tree_attention_flex, "_compiled", lambda: torch.compile(torch_flex.flex_attention, dynamic=False)
    )
    plan = make_plan(build_forest(LONG))
    with torch.no_grad():
        _same(plan, _rows(len(plan.ends)), CASES[case])
