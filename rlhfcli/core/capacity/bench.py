"""Measure how fast this machine trains a recipe, and which share of its peak that is.

What counts as useful work, and the peak, are defined in ``useful_flops``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rlhfcli.core.capacity.useful_flops import layer_sizes, matmul_peak, timed, useful_flops
from rlhfcli.core.engine.engine import Engine
from rlhfcli.core.hardware import memory_limit_gb, peak_gb, reset_peak
from rlhfcli.core.tasks.task import Batch
from rlhfcli.core.training.loop import Loop
from rlhfcli.core.training.parts import PhaseInputs, reward_parts, sft_parts
from rlhfcli.core.training.phases import started
from rlhfcli.words import percent

_WARM_UP = 2  # steps whose time does not count: memory is allocated, kernels are chosen


@dataclass
class Timing:
    """The work of a step, and the seconds of its parts.

    Args:
        tokens: Number of tokens computed.
        examples: Number of dialogues or preferences.
        flops: Number of useful floating-point operations.
        parts: Seconds of building batches, of the forward and backward passes, and of the optimizer.
    """

    tokens: int = 0
    examples: int = 0
    flops: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: {"batches": 0.0, "passes": 0.0, "optimizer": 0.0})

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return sum(self.parts.values())


def time_steps(loop: Loop, engine: Engine, steps: int, pruned_layers: Sequence[str] = ()) -> list[Timing]:
    """Make training steps of a loop and time their parts.

    Args:
        loop: Has the examples of each step.
        engine: Drives the model.
        steps: Number of steps that count; two more come before.
        pruned_layers: Linear layers of the last layer that compute only the needed tokens.

    Returns:
        One timing per step.
    """
    rows = [loop.steps[k % len(loop.steps)] for k in range(_WARM_UP + steps)]
    timings = [_time_step(loop, engine, each, pruned_layers) for each in rows]
    return timings[_WARM_UP:]


def _time_step(loop: Loop, engine: Engine, rows: Sequence[int], pruned_layers: Sequence[str]) -> Timing:
    timing, device = Timing(examples=len(rows)), engine.device
    engine.train()
    with timed(device) as took:
        batches = [loop.task.collate(part) for part in loop.task.cut(rows, loop.settings.row_budget)]
    timing.parts["batches"] = took[0]
    weight = sum(loop.task.weight(batch) for batch in batches)
    for batch in batches:
        with timed(device) as took:
            engine.accumulate(loop.task, batch, weight)
        timing.parts["passes"] += took[0]
        timing.tokens += batch.layout.tokens
        timing.flops += useful_flops(engine.module.model, batch, loop.task.name, pruned_layers)
    with timed(device) as took:
        engine.step()
    timing.parts["optimizer"] = took[0]
    return timing


def bench_phase(inputs: PhaseInputs, name: str, steps: int, *, find_size: bool) -> dict[str, Any]:
    """Measure one phase of a recipe on this machine. Nothing is saved.

    Args:
        inputs: Recipe, data and tokenizer; metrics and models of the run folder are not touched.
        name: ``sft`` or ``reward``.
        steps: Number of steps that count.
        find_size: Also search for the largest micro-batch that fits.

    Returns:
        Speeds, the share of the peak, the share of each part of a step, memory, and what limits the speed.
    """
    parts = sft_parts(inputs) if name == "sft" else reward_parts(inputs)
    module, model = parts.module, parts.module.model
    limit = memory_limit_gb()
    with started(inputs, parts) as (loop, engine):
        reset_peak()
        with inputs.sink.stage(f"{name}: {_WARM_UP + steps} steps"):
            timings = time_steps(loop, engine, steps, parts.strategy.pruned_layers)
        memory = peak_gb()
        trials = list(try_sizes(loop, module, engine.device, limit)) if find_size else []
        dtype = torch.bfloat16 if module.bf16 else torch.float32
        rows = min(loop.settings.row_budget, max(timing.tokens for timing in timings))
        with inputs.sink.stage("matrix multiplications of the same sizes"):
            peak = matmul_peak(layer_sizes(model), rows, dtype, engine.device)
    result = {
        "phase": name,
        "steps": steps,
        "batch_size": loop.settings.phase.batch_size,
        "micro_batch_tokens": loop.settings.row_budget,
        "precision": "bf16" if module.bf16 else "fp32",
        "layout": "token trees" if loop.task.packed else "padded",
        **_speeds(timings, peak),
        "memory_gb": memory,
        "memory_limit_gb": limit,
        "trials": [vars(trial) for trial in trials],
    }
    return result | {"limit": what_limits(result)}


def _speeds(timings: Sequence[Timing], peak: float) -> dict[str, Any]:
    """Return speeds, the share of each part of a step, and the share of the machine's peak."""
    seconds = sum(timing.seconds for timing in timings)
    shares = {part: sum(timing.parts[part] for timing in timings) / seconds for part in timings[0].parts}
    useful = sum(timing.flops for timing in timings) / seconds
    speeds = [timing.tokens / timing.seconds for timing in timings]
    return {
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_range": [min(speeds), max(speeds)],
        "examples_per_second": sum(timing.examples for timing in timings) / seconds,
        "seconds_per_step": statistics.median(timing.seconds for timing in timings),
        "shares": shares,
        "useful_gflops": useful / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": useful / peak,
    }


def what_limits(result: dict[str, Any]) -> str:
    """Say in words what limits the speed of a step.

    Args:
        result: The measurements of ``bench_phase``.
    """
    shares = result["shares"]
    if shares["optimizer"] > 0.25:
        share = percent(shares["optimizer"], 0)
        return f"the optimizer, with {share} of a step: a larger batch_size, or LoRA, weighs it less"
    if shares["batches"] > 0.1:
        return f"building batches takes {percent(shares['batches'], 0)} of a step"
    if result["layout"] == "padded":
        return "padding: this family computes no token trees"
    if result["share_of_peak"] > 0.6:
        return "the matrix multiplications themselves: this is close to what the machine can do"
    return "what is not a matrix multiplication (attention, norms, activations): small layers or short micro-batches"


@dataclass(frozen=True)
class Trial:
    """A trial of a micro-batch size.

    Args:
        tokens: Maximum number of tokens.
        used: Number of tokens of the micro-batch that was made.
        tokens_per_second: Speed of its forward and backward pass.
        memory_gb: Peak memory in GB; ``None`` if it did not fit.
    """

    tokens: int
    used: int
    tokens_per_second: float
    memory_gb: float | None


def try_sizes(loop: Loop, module: nn.Module, device: torch.device, limit_gb: float) -> Iterator[Trial]:
    """Double the micro-batch until it does not fit, or holds all examples.

    Args:
        loop: Has the examples.
        module: The model.
        device: The device of the model.
        limit_gb: Memory that may be used, in GB.

    Yields:
        The trial of each size.
    """
    rows = sorted({row for step in loop.steps for row in step}, key=lambda row: -loop.lengths[row])
    size, before = 512, 0
    while True:
        part = max(loop.task.cut(rows[: max(1, size // 4)], size), key=lambda part: sum(loop.lengths[k] for k in part))
        batch = loop.task.collate(part).to(device)
        if batch.layout.tokens <= before:
            return
        before = batch.layout.tokens
        try:
            trial = _try_size(loop, module, batch, size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield Trial(size, before, 0.0, None)
            return
        yield trial
        growth = 2.0 * (trial.memory_gb or 0.0)
        if growth > limit_gb:  # the next one would not fit
            return
        size *= 2


def _try_size(loop: Loop, module: nn.Module, batch: Batch, size: int) -> Trial:
    seconds = []
    reset_peak()
    for _ in range(3):
        with timed(batch.positions.device) as took:
            loop.task.step(module, batch)["loss"].backward()
        module.zero_grad(set_to_none=True)
        seconds.append(took[0])
    return Trial(size, batch.layout.tokens, batch.layout.tokens / min(seconds[1:]), peak_gb())
