"""The state of an engine, independent of how it is partitioned: full tensors by parameter name.

ZeRO keeps weights and Adam's two moments in flat partitions, which differ for every stage and number of ranks.
DeepSpeed's own checkpoints hold these partitions (pickled), and have to be converted for another layout. Here each
tensor is gathered when it is saved, one by one, and partitioned again when it is loaded, so that one checkpoint serves
every stage and any number of ranks, and the same layout restores the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rlhfcli.core.parallel.zero3 import gathered

if TYPE_CHECKING:
    from rlhfcli.core.engine.engine import Engine

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's names for its running means of the gradient and of its square


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that a checkpoint holds, with their names; frozen ones come with the base model.

    Args:
        module: The model.
    """
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def tensors(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Gather weights and moments. All ranks have to take part, and to iterate to the end.

    Args:
        engine: The engine, after its first step.

    Yields:
        ``kind:parameter name`` and the full tensor, float32, on the CPU; the same on all ranks. It is a copy, which
        later steps do not change.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(engine)
    live = engine.zero_stage == 0  # the other stages return new tensors
    for name, parameter in trained(engine.module):
        if live:
            state = engine.engine.basic_optimizer.state.get(parameter, {})
            # a parameter without a gradient has none, such as those of a vision tower
            moments = [state[key] if key in state else torch.zeros_like(parameter) for key in MOMENTS]
            gathered_tensors = [parameter.detach(), *moments]
        else:
            gathered_tensors = [safe_get_full_fp32_param(parameter)]
            gathered_tensors += [safe_get_full_optimizer_state(parameter, key) for key in MOMENTS]
        for kind, tensor in zip((WEIGHT, *MOMENTS), gathered_tensors, strict=True):
            yield f"{kind}:{name}", tensor.detach().to("cpu", torch.float32, copy=live).contiguous()


def load_weights(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Load the trained weights into a model, before an engine is made for it.

    Args:
        module: The model, partitioned or not.
        read: Reads the tensor of a key that ``tensors`` has yielded.
    """
    with torch.no_grad():
        for name, parameter in trained(module):
            with gathered([parameter]):
                parameter.copy_(read(f"{WEIGHT}:{name}"))


def load_moments(engine: Engine, read: Callable[[str], Tensor], updates: int) -> None:
    """Load the state of the optimizer and of the schedule into a new engine.

    Args:
        engine: An engine that has made no step; its model has the weights of ``load_weights``.
        read: Reads the tensor of a key that ``tensors`` has yielded.
        updates: Number of optimizer steps made.
    """
    optimizer = engine.engine.basic_optimizer if engine.zero_stage == 0 else engine.engine.optimizer.optimizer
    for number, parameter in enumerate(_stepped_tensors(engine, optimizer)):
        with _swapped_in(engine, number):
            moments = {key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS}
            count = parameter.device if optimizer.defaults["fused"] else None  # fused kernels want it beside them
            optimizer.state[parameter] = {"step": torch.tensor(float(updates), device=count), **moments}
    _link(engine)
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            _set_moment(engine, optimizer, parameter, key, read(f"{key}:{name}"))
    engine.engine.global_steps = updates
    _fast_forward(engine.scheduler, updates)


def _stepped_tensors(engine: Engine, optimizer: Any) -> list[Tensor]:
    """Return the tensors that the optimizer steps: the parameters at stage 0, else flat partitions of many."""
    if engine.zero_stage == 3:  # which hands its partitions to the optimizer one by one
        return list(engine.engine.optimizer.fp32_partitioned_groups_flat)
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _swapped_in(engine: Engine, number: int) -> Iterator[None]:
    """Keep a partition that is offloaded to files in memory while this block runs, with its optimizer's state."""
    zero = engine.engine.optimizer
    if engine.zero_stage != 3 or not zero._swappable_optimizer_subgroup(number):
        yield
        return
    zero._optimizer_states_and_gradient_swap_in(number)
    yield
    zero._optimizer_states_and_gradient_swap_out(number)


def _link(engine: Engine) -> None:
    """Let DeepSpeed find the moments: by itself it only looks after the first step of the first group."""
    if engine.zero_stage in (1, 2):
        engine.engine.optimizer._hp_optimizer_states_linked = False
        engine.engine.optimizer._lazy_init_hp_params_optimizer_state()


def _fast_forward(scheduler: LambdaLR, updates: int) -> None:
    """Set a schedule to its state after a number of steps, without making them."""
    scheduler.last_epoch = updates
    scheduler._step_count = updates + 1
    rates = [rate * factor(updates) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _set_moment(engine: Engine, optimizer: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    value = value.to(engine.device)
    if engine.zero_stage == 0:
        optimizer.state[parameter][key].copy_(value)
    elif engine.zero_stage in (1, 2):
        safe_set_full_optimizer_state(parameter, value, key)
    else:  # DeepSpeed's function for this fails with partitions in files, which do not know their size
        zero, size, ranks = engine.engine.optimizer, cast("Any", parameter).ds_tensor.ds_numel, dist.get_world_size()
        rest = size * ranks - value.numel()  # the last rank's partition may be longer than the rest of the tensor
        own = nn.functional.pad(value.flatten(), (0, rest)).view(ranks, size)[dist.get_rank()]
        moment, number = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)
        moment.copy_(own)
        if zero._swappable_optimizer_subgroup(number):
            zero._optimizer_states_and_gradient_swap_out(number)
