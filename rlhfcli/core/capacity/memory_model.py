"""Estimate the memory that a training needs on each device: arithmetic, no torch.

AdamW in float32 keeps four numbers of 4 bytes for each trained parameter: the weight, its gradient, and two moments. A
frozen one has its weight alone. DeepSpeed adds copies of its own, found in its source and in measured trainings: from
stage 1 on a second copy of the weights that the optimizer works on, and a bucket in which gradients travel (at stage 3
twice). At stage 3 the weights are partitioned, but those in use are gathered. With ``t`` trained and ``f`` frozen
parameters on ``n`` ranks:

    stage         0          1, 2             3
    parameters    t + f      t + f            (t + f) / n, and min(t + f, 1e9) gathered
    gradients     t          t / n            t / n
    optimizer     2 t        3 t / n          3 t / n
    bucket        -          min(t, 5e7)      2 min(t, 5e7)

The activations are those of the largest micro-batch (see ``activation_memory``), in the precision of the computation.
After them comes the optimizer's step, with one more copy of its gradients; at stage 3 only for a group of 5e7 numbers,
with what AdamW computes of them. Offload moves the optimizer with its gradients, or these and the partitioned
parameters, to host memory; at stage 3 the gradients are on the device as well. For tensors in files, the host has
buffers: four for a group (its weights, gradients and moments), and one for each parameter that is being read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhfcli.core.parallel.deepspeed_config import GROUP, Files

Offload = Literal["none", "optimizer", "all"]
STAGES = (0, 1, 2, 3)
FLOAT32 = 4  # bytes
GATHERED = 1_000_000_000  # parameters: DeepSpeed's stage3_max_live_parameters
PROGRAM = {"fp32": 150_000_000, "bf16": 200_000_000}  # bytes that the libraries grow by on a CPU, measured


@dataclass(frozen=True)
class Needs:
    """The sizes that the memory of a training depends on.

    Args:
        trained: Number of trained parameters.
        frozen: Number of frozen parameters.
        buffers: Bytes of the model's other tensors.
        activations: Bytes of a forward and backward pass of the largest micro-batch.
        bf16: The computation is in bf16.
        gpu: It runs on a GPU, where a bucket takes its full size; on a CPU it takes the part that is used.
        program: Bytes of the program before it has a model, on a CPU.
    """

    trained: int
    frozen: int
    buffers: int
    activations: int
    bf16: bool = False
    gpu: bool = False
    program: int = 0


@dataclass(frozen=True)
class Memory:
    """The memory that one rank needs, in bytes.

    Args:
        stage: ZeRO stage.
        offload: What is offloaded to host memory or files.
        parameters: Weights; at stage 3 with those that are gathered.
        gradients: Gradients of trained parameters.
        optimizer: Moments, and DeepSpeed's copy of the weights.
        activations: Activations of the largest micro-batch, or the optimizer's step after them if it needs more; and
            the model's buffers.
        other: The bucket; on a CPU also the program itself, and its growth.
        host: Host memory for offloaded tensors.
        files: Files for offloaded tensors.
    """

    stage: int
    offload: Offload
    parameters: float
    gradients: float
    optimizer: float
    activations: float
    other: float
    host: float = 0.0
    files: float = 0.0

    @property
    def device(self) -> float:
        """Bytes on the device."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.other


def estimate(needs: Needs, stage: int, ranks: int, offload: Offload = "none", files: Files | None = None) -> Memory:
    """Estimate the memory that each rank needs; see the top of the file.

    Args:
        needs: The sizes of model and batch.
        stage: ZeRO stage.
        ranks: Number of ranks.
        offload: ``optimizer`` from stage 1 on, ``all`` at stage 3.
        files: Buffers of ``deepspeed.nvme``, which takes offloaded tensors at stage 3.

    Raises:
        ValueError: The stage does not have this offload.
    """
    if offload not in offloads(stage):
        raise ValueError(f"stage {stage} does not offload {offload}")
    total, trained = needs.trained + needs.frozen, needs.trained
    shares = ranks if stage else 1
    resting = FLOAT32 * total / (ranks if stage == 3 else 1)
    gathered = FLOAT32 * min(total, GATHERED) if stage == 3 else 0
    gradients, optimizer = FLOAT32 * trained / shares, FLOAT32 * (3 if stage else 2) * trained / shares
    bucket = FLOAT32 * (GROUP if needs.gpu else min(trained, GROUP))
    program = 0 if needs.gpu else needs.program + PROGRAM["bf16" if needs.bf16 else "fp32"]
    step = (0, gradients, gradients, 3 * min(gradients, FLOAT32 * GROUP))[stage]
    host = {"none": 0.0, "optimizer": gradients + optimizer, "all": gradients + optimizer + resting}[offload]
    if offload != "none":
        optimizer = 0.0
        gradients = gradients if stage == 3 else 0.0
    if offload == "all":
        resting = 0.0
    written = 0.0
    if files and offload != "none" and stage == 3:
        host, written = _buffers(files, trained / ranks, ranks, parameters=offload == "all"), host
    other = float((0, bucket, bucket, 2 * bucket)[stage] + program)
    working = max(needs.activations, step) + needs.buffers
    return Memory(stage, offload, resting + gathered, gradients, optimizer, working, other, host, written)


def _buffers(files: Files, own: float, ranks: int, *, parameters: bool) -> float:
    """Return the bytes of host buffers for tensors in files; ``own`` is the number of trained numbers of a rank."""
    largest = files.largest / ranks
    group = min(own, GROUP + largest)
    return FLOAT32 * (4 * group + (group + files.buffers * largest if parameters else 0))


def offloads(stage: int) -> tuple[Offload, ...]:
    """Return the kinds of offload that a stage has.

    Args:
        stage: ZeRO stage.
    """
    return (("none",), ("none", "optimizer"), ("none", "optimizer"), ("none", "optimizer", "all"))[stage]
