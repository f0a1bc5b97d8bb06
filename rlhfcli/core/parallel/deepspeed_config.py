"""Turn a recipe into DeepSpeed's configuration. Dictionaries only: nothing here loads DeepSpeed or torch.

What is chosen for a GPU follows DeepSpeed's documentation; it was not run on one yet.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from rlhfcli.recipe.schema import DeepspeedSection

# Numbers that are reduced, and at stage 3 stepped, at a time. DeepSpeed's defaults are 10 and 20 times as large: 2 GB
# and 4 GB of float32 that stay beside the model.
GROUP = 50_000_000
BUFFERS = 5  # parameters from files that are in memory at the same time, at least


@dataclass(frozen=True)
class Files:
    """The files of ``deepspeed.nvme``, into which tensors are offloaded.

    Args:
        folder: A folder that this process alone uses.
        largest: Numbers in the largest parameter, not partitioned; 0 if parameters stay in memory.
        buffers: Number of parameters from files that are in memory at the same time.
    """

    folder: str
    largest: int = 0
    buffers: int = BUFFERS


def configuration(
    section: DeepspeedSection,
    max_grad_norm: float,
    *,
    cuda: bool,
    files: Files | None = None,
    ranks: int = 1,
    stage: int | None = None,
) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    The batch sizes are nominal: with ``managed_gradient_accumulation`` off any number of backward passes may come
    before a step, so the last window of an epoch may be short.

    Args:
        section: The recipe's section; its ``config`` was checked against the rest of it.
        max_grad_norm: Largest norm of the gradient; a larger one is clipped.
        cuda: Whether there is a GPU.
        files: Folder and buffers of ``deepspeed.nvme``, where the section has it.
        ranks: Number of ranks that the parameters are divided among.
        stage: ZeRO stage (see ``effective_stage``); that of the section if left out.

    Returns:
        The argument ``config`` of ``deepspeed.initialize``.
    """
    stage = section.zero_stage if stage is None else stage
    zero = _zero(stage, cuda) | _offload(section, cuda) | _in_files(section, files, ranks)
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm if stage else 0.0,  # stage 0: see Engine._clip_ourselves
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        # torch's AdamW steps what is offloaded, too: nothing to build, and the same losses as without offload
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    assert isinstance(section.config, dict)  # the loader has put the content of a file in its place
    return merged(ours, section.config)


def _zero(stage: int, cuda: bool) -> dict[str, Any]:
    """Return the section of ZeRO without offload."""
    return {
        "stage": stage,
        "overlap_comm": cuda and stage >= 2,  # on CPUs there is no second stream to do it in
        "contiguous_gradients": True,
        "reduce_bucket_size": GROUP,
        "sub_group_size": GROUP,
        "stage3_gather_16bit_weights_on_model_save": stage == 3,
    }


def effective_stage(section: DeepspeedSection, ranks: int, stage: int | None = None) -> int:
    """Return the ZeRO stage that a number of ranks use: stage 0 instead of 1 or 2 for a rank alone.

    Stages 1 and 2 divide gradients and the optimizer's states among the ranks. Alone, a rank would keep all of them,
    with another copy of the weights, and copy every gradient twice: with OPT-125M a step took a third longer. Stage 0
    has the same results. The stage stays if the section offloads the optimizer or has a ``config`` of its own.

    Args:
        section: The recipe's section.
        ranks: Number of ranks.
        stage: The stage asked for; that of the section if left out.
    """
    stage = section.zero_stage if stage is None else stage
    plain = section.offload != "optimizer" and not section.config
    return 0 if ranks == 1 and stage in (1, 2) and plain else stage


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two configurations, section by section, into a new one.

    Args:
        below: Values that apply where ``above`` has none.
        above: Values that take precedence.
    """
    result = copy.deepcopy(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            result[key] = merged(inner, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _offload(section: DeepspeedSection, cuda: bool) -> dict[str, Any]:
    """Return the sections for tensors in host memory."""
    memory = {"device": "cpu", "pin_memory": cuda}  # only copies to a GPU gain from pages that stay in their place
    offload = {} if section.offload == "none" else {"offload_optimizer": memory}
    return offload | ({"offload_param": memory} if section.offload == "all" else {})


def _in_files(section: DeepspeedSection, files: Files | None, ranks: int) -> dict[str, Any]:
    """Return the sections for tensors in files, which pass through buffers in memory."""
    if files is None or section.offload == "none":
        return {}
    place = {"device": "nvme", "nvme_path": files.folder}
    states = {"offload_optimizer": place}
    if section.offload == "optimizer":
        return states
    largest = -(-files.largest // ranks)
    parameters = place | {"buffer_size": largest, "buffer_count": files.buffers, "max_in_cpu": 0}
    # A parameter keeps its buffer while it is gathered, so it is released at once, even if it is used again soon; none
    # is fetched ahead: after an evaluation those would be of a backward pass that never comes, with no buffer left.
    return states | {"offload_param": parameters, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
