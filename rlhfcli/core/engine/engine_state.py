"""The state of an engine, independent of how it is partitioned: whole tensors by parameter name.

ZeRO keeps weights and Adam's two moments in flat pieces, cut differently for every stage and number of ranks.
DeepSpeed's own checkpoints are such pieces (pickled), and have to be converted before another layout can read them.
Here each tensor is put together on the way out, one by one, and cut again on the way in, so that one checkpoint serves
every stage and any number of ranks, and the same layout gets back the same bits.
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
    """The parameters that a checkpoint holds; frozen ones come from where the model came from."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def tensors(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    """Put weights and moments together. All ranks must take part, and iterate to the end.

    Args:
        engine: Between two steps, after the first.

    Yields:
        ``kind:parameter name`` and the whole tensor, float32, on the CPU; the same on all ranks. It is a copy, which
        later steps leave as it is.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(engine)
    live = engine.zero_stage == 0  # what the other stages put together is new
    for name, parameter in trained(engine.module):
        if live:
            state = engine.engine.basic_optimizer.state.get(parameter, {})
            # of a parameter that has had no gradient yet there is none: a tower that no text goes through
            moments = [state[key] if key in state else torch.zeros_like(parameter) for key in MOMENTS]
            whole = [parameter.detach(), *moments]
        else:
            whole = [safe_get_full_fp32_param(parameter)]
            whole += [safe_get_full_optimizer_state(parameter, key) for key in MOMENTS]
        for kind, tensor in zip((WEIGHT, *MOMENTS), whole, strict=True):
            yield f"{kind}:{name}", tensor.detach().to("cpu", torch.float32, copy=live).contiguous()


def load_weights(module: nn.Module, read: Callable[[str], Tensor]) -> None:
    """Give a model its trained weights back, before an engine takes it.

    Args:
        module: In pieces or not.
        read: The tensor of a key that ``tensors`` gave.
    """
    with torch.no_grad():
        for name, parameter in trained(module):
            with gathered([parameter]):
                parameter.copy_(read(f"{WEIGHT}:{name}"))


def load_moments(engine: Engine, read: Callable[[str], Tensor], updates: int) -> None:
    """Give a new engine its optimizer's and its schedule's state back.

    Args:
        engine: Has made no step yet; its model has the weights of ``load_weights``.
        read: The tensor of a key that ``tensors`` gave.
        updates: Optimizer steps that were made.
    """
    optimizer = engine.engine.basic_optimizer if engine.zero_stage == 0 else engine.engine.optimizer.optimizer
    for number, parameter in enumerate(_pieces(engine, optimizer)):
        with _in_memory(engine, number):
            moments = {key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS}
            count = parameter.device if optimizer.defaults["fused"] else None  # fused kernels want it beside them
            optimizer.state[parameter] = {"step": torch.tensor(float(updates), device=count), **moments}
    _link(engine)
    for name, parameter in trained(engine.module):
        for key in MOMENTS:
            _set_moment(engine, optimizer, parameter, key, read(f"{key}:{name}"))
    engine.engine.global_steps = updates
    _fast_forward(engine.scheduler, updates)


def _pieces(engine: Engine, optimizer: Any) -> list[Tensor]:
    """What the optimizer steps: the parameters themselves at stage 0, else flat pieces of many."""
    if engine.zero_stage == 3:  # which shows its pieces to the optimizer one after the other
        return list(engine.engine.optimizer.fp32_partitioned_groups_flat)
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def _in_memory(engine: Engine, number: int) -> Iterator[None]:
    """While this block runs, a piece that lives in files is in memory, with its optimizer's state."""
    zero = engine.engine.optimizer
    if engine.zero_stage != 3 or not zero._swappable_optimizer_subgroup(number):
        yield
        return
    zero._optimizer_states_and_gradient_swap_in(number)
    yield
    zero._optimizer_states_and_gradient_swap_out(number)


def _link(engine: Engine) -> None:
    """Let DeepSpeed look where the moments are: by itself it looks after the first group's first step only."""
    if engine.zero_stage in (1, 2):
        engine.engine.optimizer._hp_optimizer_states_linked = False
        engine.engine.optimizer._lazy_init_hp_params_optimizer_state()


def _fast_forward(scheduler: LambdaLR, updates: int) -> None:
    """Bring a schedule to where it was after so many steps, without making them."""
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
    else:  # DeepSpeed's function for this asks the piece for its size, which one in a file does not know
        zero, piece, ranks = engine.engine.optimizer, cast("Any", parameter).ds_tensor.ds_numel, dist.get_world_size()
        rest = piece * ranks - value.numel()  # the last rank's piece may be longer than what is left of the tensor
        own = nn.functional.pad(value.flatten(), (0, rest)).view(ranks, piece)[dist.get_rank()]
        moment, number = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)
        moment.copy_(own)
        if zero._swappable_optimizer_subgroup(number):
            zero._optimizer_states_and_gradient_swap_out(number)
