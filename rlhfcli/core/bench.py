"""How fast this machine trains a recipe, and how much of what it could do that is.

*Peak*: the fastest that this machine multiplies matrices of the model's own sizes, measured. *Useful work* of a step:
``2 P`` floating-point operations per token for the forward pass through ``P`` weights of linear layers, ``2 P`` for the
gradient of its inputs and ``2 P`` for that of its weights where they are trained; the language-model head only where a
label is. A token of a tree counts once; padding, recomputation and attention not at all. So the share of the peak is
what was useful, not what was busy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rlhfcli.core.engine import Engine
from rlhfcli.core.loop import Loop, memory_gb
from rlhfcli.core.lora import LoraLinear
from rlhfcli.core.partitioned import shape_of
from rlhfcli.core.phases import Project, reward_parts, sft_parts, started
from rlhfcli.core.tasks import Batch

_WARM_UP = 2  # steps whose time does not count: memory is allocated, kernels are chosen


@dataclass
class Timing:
    """Where the seconds of a step went.

    Args:
        tokens: Tokens computed.
        examples: Dialogues or preferences.
        flops: Useful floating-point operations.
        parts: Seconds by part: batches, forward and backward, optimizer.
    """

    tokens: int = 0
    examples: int = 0
    flops: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: {"batches": 0.0, "passes": 0.0, "optimizer": 0.0})

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self.parts.values())


def matmul_peak(sizes: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """The fastest that a linear layer of the model runs.

    Args:
        sizes: Inputs and outputs of the layers to try.
        tokens: Rows of the input.
        dtype: What is multiplied.
        device: Where.

    Returns:
        Floating-point operations per second: the best layer's median over several runs.
    """
    best = 0.0
    for inputs, outputs in sizes:
        x, weight = torch.randn(tokens, inputs, device=device), torch.randn(outputs, inputs, device=device)
        x, weight = x.to(dtype), weight.to(dtype)
        seconds = []
        for _ in range(7):
            with _timed(device) as took:
                nn.functional.linear(x, weight)
            seconds.append(took[0])
        best = max(best, 2.0 * tokens * inputs * outputs / statistics.median(seconds[2:]))
    return best


def layer_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Inputs and outputs of the model's linear layers, each size once."""
    layers = [layer for layer in _linear_layers(model)]
    return sorted({(shape_of(layer)[1], shape_of(layer)[0]) for layer in layers})


def useful_flops(model: Any, batch: Batch, name: str) -> float:
    """Useful floating-point operations of a training step with a batch; see the top of the file.

    Args:
        model: The transformers model.
        batch: What it computes.
        name: ``sft`` or ``reward``: which head there is.
    """
    head = model.get_output_embeddings() if name == "sft" else None
    total = 0.0
    for weight in _linear_layers(model):
        if head is not None and weight is head.weight:
            continue
        total += (6.0 if weight.requires_grad else 4.0) * shape_of(weight).numel() * batch.layout.tokens
    if head is not None:
        total += (6.0 if head.weight.requires_grad else 4.0) * shape_of(head.weight).numel() * len(batch.target)
    return total


def _linear_layers(model: nn.Module) -> list[torch.Tensor]:
    """The weights of all linear layers, as ``(outputs, inputs)``; GPT-2 keeps them the other way round."""
    found: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            found.append(cast("torch.Tensor", module.weight))
        elif isinstance(module, LoraLinear):
            found += [parameter for parameter in module.parameters(recurse=False) if len(shape_of(parameter)) == 2]
    return list({id(weight): weight for weight in found}.values())


def time_steps(loop: Loop, engine: Engine, steps: int) -> list[Timing]:
    """Make training steps of a loop and time their parts.

    Args:
        loop: Knows the batches.
        engine: Drives the model.
        steps: How many count; two more come before.

    Returns:
        One timing per step.
    """
    rows = [loop.steps[k % len(loop.steps)] for k in range(_WARM_UP + steps)]
    timings = [_time_step(loop, engine, each) for each in rows]
    return timings[_WARM_UP:]


def _time_step(loop: Loop, engine: Engine, rows: Sequence[int]) -> Timing:
    timing, device = Timing(examples=len(rows)), engine.device
    engine.train()
    with _timed(device) as took:
        batches = [loop.task.collate(part) for part in loop.task.cut(rows, loop.phase.micro_batch_tokens)]
    timing.parts["batches"] = took[0]
    weight = sum(loop.task.weight(batch) for batch in batches)
    for batch in batches:
        with _timed(device) as took:
            engine.accumulate(loop.task, batch, weight)
        timing.parts["passes"] += took[0]
        timing.tokens += batch.layout.tokens
        timing.flops += useful_flops(engine.module.model, batch, loop.task.name)
    with _timed(device) as took:
        engine.step()
    timing.parts["optimizer"] = took[0]
    return timing


def bench_phase(project: Project, name: str, steps: int, *, find_size: bool) -> dict[str, Any]:
    """Measure one phase of a recipe on this machine. Nothing is saved.

    Args:
        project: Recipe, data, tokenizer; metrics and models of its folder are not touched.
        name: ``sft`` or ``reward``.
        steps: Steps that count.
        find_size: Also look for the largest micro-batch that fits.

    Returns:
        Speeds, the share of the peak, where the seconds went, memory, and what limits the speed.
    """
    parts = sft_parts(project) if name == "sft" else reward_parts(project)
    module, model = parts.module, parts.module.model
    limit = memory_limit_gb()
    with started(project, parts) as (loop, engine):
        _reset_memory()
        with project.sink.stage(f"{name}: {_WARM_UP + steps} steps"):
            timings = time_steps(loop, engine, steps)
        memory = peak_gb()
        trials = list(try_sizes(loop, module, engine.device, limit)) if find_size else []
        dtype = torch.bfloat16 if module.bf16 else torch.float32
        rows = min(loop.phase.micro_batch_tokens, max(timing.tokens for timing in timings))
        with project.sink.stage("matrix multiplications of the same sizes"):
            peak = matmul_peak(layer_sizes(model), rows, dtype, engine.device)
    seconds = sum(timing.seconds for timing in timings)
    shares = {part: sum(timing.parts[part] for timing in timings) / seconds for part in timings[0].parts}
    useful = sum(timing.flops for timing in timings) / seconds
    speeds = [timing.tokens / timing.seconds for timing in timings]
    result = {
        "phase": name,
        "steps": steps,
        "batch_size": loop.phase.batch_size,
        "micro_batch_tokens": loop.phase.micro_batch_tokens,
        "precision": "bf16" if module.bf16 else "fp32",
        "layout": "token trees" if loop.task.packed else "padded",
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_range": [min(speeds), max(speeds)],
        "examples_per_second": sum(timing.examples for timing in timings) / seconds,
        "seconds_per_step": statistics.median(timing.seconds for timing in timings),
        "shares": shares,
        "useful_gflops": useful / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": useful / peak,
        "memory_gb": memory,
        "memory_limit_gb": limit,
        "trials": [vars(trial) for trial in trials],
    }
    return result | {"limit": what_limits(result)}


def what_limits(result: dict[str, Any]) -> str:
    """What a step would have to do less of to be faster, in words.

    Args:
        result: What ``bench_phase`` measured.
    """
    shares = result["shares"]
    if shares["optimizer"] > 0.25:
        return f"the optimizer, with {shares['optimizer']:.0%} of a step: a larger batch_size, or LoRA, weighs it less"
    if shares["batches"] > 0.1:
        return f"building batches takes {shares['batches']:.0%} of a step"
    if result["layout"] == "padded":
        return "padding: this family computes no token trees"
    if result["share_of_peak"] > 0.6:
        return "the matrix multiplications themselves: this is close to what the machine can do"
    return "what is not a matrix multiplication (attention, norms, activations): small layers or short micro-batches"


@dataclass(frozen=True)
class Trial:
    """A size of micro-batch that was tried.

    Args:
        tokens: Largest number of tokens.
        used: Tokens of the micro-batch that was made.
        tokens_per_second: Its speed, forward and backward.
        memory_gb: Most memory used meanwhile; ``None`` where it did not fit.
    """

    tokens: int
    used: int
    tokens_per_second: float
    memory_gb: float | None


def try_sizes(loop: Loop, module: nn.Module, device: torch.device, limit_gb: float) -> Iterator[Trial]:
    """Double the micro-batch until it does not fit, or holds all there is.

    Args:
        loop: Has the examples.
        module: The model.
        device: Where it is.
        limit_gb: Memory that may be used.

    Yields:
        One trial per size.
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
    _reset_memory()
    for _ in range(3):
        with _timed(batch.at.device) as took:
            loop.task.step(module, batch)["loss"].backward()
        module.zero_grad(set_to_none=True)
        seconds.append(took[0])
    return Trial(size, batch.layout.tokens, batch.layout.tokens / min(seconds[1:]), peak_gb())


def _reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Most memory used since ``_reset_memory`` in GB, where the system tells; else since the start."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return memory_gb()
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def memory_limit_gb() -> float:
    """Memory that training may use: the GPU's, or what is free on this machine and what this process has already."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory) / 1e9
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8.0
    free = int(info.read_text().partition("MemAvailable:")[2].split()[0]) * 1024 / 1e9
    return free + peak_gb()


@contextmanager
def _timed(device: torch.device) -> Iterator[list[float]]:
    """Seconds of a block, the GPU's work included."""
    took = [0.0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    yield took
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took[0] = time.perf_counter() - began
