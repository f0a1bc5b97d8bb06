"""From the recipe to DeepSpeed's configuration. Dictionaries only: nothing here loads DeepSpeed, or torch.

What is chosen for a GPU follows DeepSpeed's documentation; it was not run on one yet.
"""

from __future__ import annotations

import copy
from typing import Any

from rlhfcli.recipe.schema import Deepspeed


def configuration(section: Deepspeed, max_grad_norm: float, *, cuda: bool, files: str = "") -> dict[str, Any]:
    """The DeepSpeed configuration of a run.

    The batch sizes are nominal: with ``managed_gradient_accumulation`` off any number of backward passes may come
    before a step, so the last window of an epoch may be short.

    Args:
        section: Of the recipe; its ``config`` was checked against the rest of it.
        max_grad_norm: What gradients are clipped to.
        cuda: Whether there is a GPU.
        files: A folder of this process alone, where ``deepspeed.nvme`` is given.

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
            "stage3_gather_16bit_weights_on_model_save": stage == 3,
            **_offload(section, cuda, files),
        },
    }
    assert isinstance(section.config, dict)  # the loader has put the content of a file in its place
    return merged(ours, section.config)


def in_effect(section: Deepspeed, ranks: int) -> Deepspeed:
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


def _offload(section: Deepspeed, cuda: bool, files: str) -> dict[str, Any]:
    """The sections of what lives in host memory; of the optimizer's states, in files where that is asked for."""
    memory = {"device": "cpu", "pin_memory": cuda}  # only copies to a GPU gain from pages that stay in their place
    states = memory | ({"device": "nvme", "nvme_path": files} if files else {})
    offload = {} if section.offload == "none" else {"offload_optimizer": states}
    return offload | ({"offload_param": memory} if section.offload == "all" else {})
