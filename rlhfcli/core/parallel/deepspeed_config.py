"""From the recipe to DeepSpeed's configuration. Dictionaries only: nothing here loads DeepSpeed, or torch.

What is chosen for a GPU follows DeepSpeed's documentation; it was not run on one yet.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from rlhfcli.recipe.schema import DeepspeedSection

# Numbers that are reduced, and at stage 3 stepped, at a time. DeepSpeed's own are 10 and 20 times as large: 2 GB and
# 4 GB of float32 that stay beside the model.
GROUP = 50_000_000
BUFFERS = 5  # parameters from files that are in memory at the same time, if not more are needed


@dataclass(frozen=True)
class Files:
    """Where ``deepspeed.nvme`` puts what is offloaded.

    Args:
        folder: Of this process alone.
        largest: Numbers of the largest parameter, whole; 0 where parameters stay in memory.
        buffers: Parameters from files that have to be in memory at the same time.
    """

    folder: str
    largest: int = 0
    buffers: int = BUFFERS


def configuration(
    section: DeepspeedSection, max_grad_norm: float, *, cuda: bool, files: Files | None = None, ranks: int = 1
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run.

    The batch sizes are nominal: with ``managed_gradient_accumulation`` off any number of backward passes may come
    before a step, so the last window of an epoch may be short.

    Args:
        section: Of the recipe; its ``config`` was checked against the rest of it.
        max_grad_norm: What gradients are clipped to.
        cuda: Whether there is a GPU.
        files: Where ``deepspeed.nvme`` is given.
        ranks: How many cut the parameters up.

    Returns:
        What ``deepspeed.initialize`` takes.
    """
    stage = section.zero_stage
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm if stage else 0.0,  # stage 0: see Engine._clip_ourselves
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        # torch's AdamW steps what is offloaded, too: nothing to build, and the same losses as without offload
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": cuda and stage >= 2,  # on CPUs there is no second stream to do it in
            "contiguous_gradients": True,
            "reduce_bucket_size": GROUP,
            "sub_group_size": GROUP,
            "stage3_gather_16bit_weights_on_model_save": stage == 3,
            **_offload(section, cuda),
            **_in_files(section, files, ranks),
        },
    }
    assert isinstance(section.config, dict)  # the loader has put the content of a file in its place
    return merged(ours, section.config)


def in_effect(section: DeepspeedSection, ranks: int) -> DeepspeedSection:
    """What a number of ranks makes of the recipe's section.

    Stages 1 and 2 divide gradients and the optimizer's states among the ranks. Alone, a rank would keep all of them,
    with another copy of the weights, and copy every gradient twice: with OPT-125M a step took a third longer. It takes
    stage 0, with the same results; unless it is told to offload, or how stage 1 or 2 is to be done.

    Args:
        section: Of the recipe.
        ranks: Number of ranks.

    Returns:
        The section, perhaps with another stage.
    """
    plain = section.offload == "none" and not section.config
    if ranks == 1 and section.zero_stage in (1, 2) and plain:
        return section.model_copy(update={"zero_stage": 0})
    return section


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one configuration over another, section by section.

    Args:
        below: Gives what the other does not say.
        above: Wins where both say something.

    Returns:
        A new dictionary.
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
    """The sections of what lives in host memory."""
    memory = {"device": "cpu", "pin_memory": cuda}  # only copies to a GPU gain from pages that stay in their place
    offload = {} if section.offload == "none" else {"offload_optimizer": memory}
    return offload | ({"offload_param": memory} if section.offload == "all" else {})


def _in_files(section: DeepspeedSection, files: Files | None, ranks: int) -> dict[str, Any]:
    """The same in files, as far as memory is only a place to pass through."""
    if files is None or section.offload == "none":
        return {}
    place = {"device": "nvme", "nvme_path": files.folder}
    states = {"offload_optimizer": place}
    if section.offload == "optimizer":
        return states
    largest = -(-files.largest // ranks)
    parameters = place | {"buffer_size": largest, "buffer_count": files.buffers, "max_in_cpu": 0}
    # A parameter keeps its buffer while it is whole, so it goes at once, even if it will be used again soon; and none
    # is fetched ahead: after an evaluation those would be of a backward pass that never comes, with no buffer left.
    return states | {"offload_param": parameters, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
