"""The engine's own behaviour; how it trains is in ``test_phases`` and ``test_ranks``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhfcli.core.engine import engine_state
from rlhfcli.core.engine.engine import Engine, parameter_groups
from rlhfcli.core.tasks.task import Batch, Sums, Task
from rlhfcli.errors import UserError
from rlhfcli.recipe.schema import DeepspeedSection, PhaseSection
from tests.core import families


class Tied(nn.Module):
    """Two layers with one weight, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))


class Squares:
    """The sum of squares of what comes out."""

    def step(self, forward, batch) -> Sums:
        return {"loss": forward(x=batch.x).square().sum()}


class Rows:
    """A batch of rows."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Rows:
        return self


def engine(module: nn.Module, stage: int, max_grad_norm: float = 1e9, **more: Any) -> Engine:
    phase = PhaseSection(learning_rate=1e-2, max_grad_norm=max_grad_norm)
    return Engine(
        module, phase, 10, DeepspeedSection.model_validate({"zero_stage": stage, "config": families.DIVIDED} | more)
    )


class Tower(nn.Module):
    """A layer that no gradient reaches, beside one that is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


LINEAR = nn.functional.linear
TASK: Task = Squares()  # type: ignore[assignment]
DATA = torch.linspace(-1, 1, 24).reshape(6, 4)


def batches(*sizes: int) -> list[Batch]:
    return [Rows(rows) for rows in DATA.split(list(sizes))]  # type: ignore[misc]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_repeated_batch_adds_exactly_nothing(stage: int) -> None:
    norms = []
    for repeats in (0, 2):
        module = Tied()
        with engine(module, stage) as driver:
            for batch in batches(2, 4):
                driver.accumulate(TASK, batch, 6)
            for _ in range(repeats):
                driver.accumulate(TASK, batches(5, 1)[0], 6, zero_weighted=True)
            norms.append(driver.step())
    assert norms[0] == norms[1] > 0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_gradient_is_that_of_the_mean_over_all_batches(stage: int) -> None:
    module = Tied()
    plain = copy.deepcopy(module)
    (plain(DATA).square().sum() / 6).backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None]).norm()
    with engine(module, stage) as driver:
        for batch in batches(1, 3, 2):
            driver.accumulate(TASK, batch, 6)
        assert driver.step() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("stage", [1, 3])
def test_after_the_engine_the_model_is_a_plain_one(stage: int) -> None:
    module = Tied()
    with engine(module, stage) as driver:
        driver.accumulate(TASK, batches(6)[0], 6)
        driver.step()
        trained = driver.forward(x=DATA).detach()
    assert nn.functional.linear is LINEAR
    assert not any(hasattr(p, "ds_id") for p in module.parameters())
    assert all(type(part._parameters) is dict for part in module.modules())
    assert module.outer.weight is module.inner.weight
    assert [p.shape for p in module.parameters()] == [(4, 4), (4,)]
    assert torch.equal(module(DATA), trained)


def test_after_an_error_the_other_ranks_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = engine(Tied(), 3)
    monkeypatch.setattr(driver, "_gather_parameters", lambda: pytest.fail("exchanges something with the other ranks"))
    with pytest.raises(ZeroDivisionError), driver:
        raise ZeroDivisionError


def test_only_matrices_decay_and_empty_groups_are_left_out() -> None:
    module = Tied()
    decaying, others = parameter_groups(module, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [p.dim() for p in decaying["params"]] == [2] and [p.dim() for p in others["params"]] == [1]
    module.inner.bias.requires_grad_(False)
    assert len(parameter_groups(module, 0.1)) == 1


OFFLOADS = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")]


@pytest.mark.parametrize("clip", [1e9, 0.01])
@pytest.mark.parametrize(("stage", "offload"), OFFLOADS)
def test_offloaded_weights_norm_and_clipping_are_those_without(stage: int, offload: str, clip: float) -> None:
    """Adam hides how long a gradient is, until a shorter one follows: hence two steps."""
    found = []
    for more in ({}, {"offload": offload}):
        module, norms = Tied(), []
        with engine(module, stage, clip, **more) as driver:
            for size in (6, 600):
                driver.accumulate(TASK, batches(6)[0], size)
                norms.append(driver.step())
        found.append((norms, [p.detach() for p in module.parameters()]))
    (norms, weights), (others, same) = found
    assert others == pytest.approx(norms, rel=1e-6)
    for a, b in zip(weights, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_raw_keys_reach_the_engine() -> None:
    zero = {"reduce_bucket_size": 1234, "overlap_comm": True, "stage3_prefetch_bucket_size": 5}
    raw = {"zero_optimization": zero | {"zero_hpz_partition_size": 1}, "comms_logger": {"enabled": True}}
    with engine(Tied(), 3, config=raw) as driver:
        config = driver.engine._config
        assert config.zero_config.reduce_bucket_size == 1234
        assert config.zero_config.overlap_comm is True
        assert config.zero_config.prefetch_bucket_size == 5
        assert config.comms_config.comms_logger.enabled
        assert config.gradient_clipping == 1e9
    import deepspeed

    deepspeed.comm.configure(enabled=False)  # it counts for the whole process


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"zero_optimization": {"reduce_bucket_size": "much"}}, "reduce_bucket_size"),
        ({"comms_logger": {"prof_ops": 3}}, "prof_ops"),
        ({"zero_optimization": {"leaf_module": {"classes": 3}}}, "classes"),
    ],
)
def test_what_deepspeed_refuses_is_reported_before_it_begins(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"DeepSpeed refuses deepspeed\.config: ") as caught:
        engine(Tied(), 2, config=raw)
    assert said in caught.value.what


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_parameter_without_gradient_is_in_the_checkpoint_and_continues(stage: int) -> None:
    with engine(Tower(), stage) as first:
        first.accumulate(TASK, batches(6)[0], 6)
        first.step()
        found = dict(engine_state.tensors(first))
    assert found.keys() == {
        f"{kind}:{layer}.{name}"
        for kind in (engine_state.WEIGHT, *engine_state.MOMENTS)
        for layer in ("inner", "unused")
        for name in ("weight", "bias")
    }
    assert not found["exp_avg:unused.weight"].any() and found["exp_avg:unused.weight"].shape == (2, 4)
    assert found["exp_avg:inner.weight"].any()
    module = Tower()
    engine_state.load_weights(module, found.__getitem__)
    with engine(module, stage) as second:
        engine_state.load_moments(second, found.__getitem__, 1)
        assert all(torch.equal(found[key], tensor) for key, tensor in engine_state.tensors(second))


@pytest.mark.parametrize(
    ("stage", "config", "told"),
    [
        (1, {"zero_optimization": {"overlap_comm": True}}, "overlap_comm"),
        (1, {"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size"),
    ],
)
def test_what_deepspeed_refuses_only_when_it_builds(stage: int, config: dict[str, Any], told: str) -> None:
    section = DeepspeedSection.model_validate({"zero_stage": stage, "config": config})
    with pytest.raises(UserError, match=told) as caught:
        Engine(nn.Linear(4, 4), PhaseSection(learning_rate=1e-2), 10, section)
    assert "DeepSpeed refuses deepspeed.config: " in str(caught.value)
