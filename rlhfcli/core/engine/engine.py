"""The DeepSpeed engine, which drives a model.

One process is a run with one rank, on the same code path as many. Nothing here needs a compiler, unless
``deepspeed.nvme`` is set: the optimizer is torch's AdamW, and the extension that DeepSpeed would build at start-up (for
inference) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.hooks import RemovableHandle

from rlhfcli.core.parallel.deepspeed_config import Files, configuration, effective_stage
from rlhfcli.core.parallel.own_rank import rank, world_size
from rlhfcli.core.parallel.process_group import ensure_process_group, import_deepspeed
from rlhfcli.core.parallel.zero3 import shape_of
from rlhfcli.core.tasks.task import Batch, Sums, Task
from rlhfcli.errors import UserError
from rlhfcli.recipe.schema import DeepspeedSection, PhaseSection, ScheduleSection

_LINEAR = nn.functional.linear  # stage 3 replaces it for all models of this process


class Engine:
    """Drives one model with one optimizer.

    Args:
        module: The model; its parameters with ``requires_grad`` are trained.
        phase: The section of the phase, with learning rate, schedule and clipping.
        steps: Total number of optimizer steps, for the schedule.
        section: The recipe's DeepSpeed section.
        files: Folder and buffers of ``deepspeed.nvme``, where the section has it.
    """

    def __init__(
        self, module: nn.Module, phase: PhaseSection, steps: int, section: DeepspeedSection, files: Files | None = None
    ) -> None:
        deepspeed = import_deepspeed()
        ensure_process_group()
        stage = effective_stage(section, world_size())
        groups = parameter_groups(module, phase.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, lr=phase.learning_rate, betas=(phase.betas[0], phase.betas[1]), fused=stage != 3
        )
        scheduler = LambdaLR(optimizer, schedule_factor(phase.schedule, steps))
        config = configuration(
            section,
            phase.max_grad_norm,
            cuda=torch.cuda.is_available(),
            files=files,
            ranks=world_size(),
            stage=stage,
        )
        _check(config)
        with _refusals_explained(section, stage):
            self.engine, _, _, self.scheduler = deepspeed.initialize(
                model=module, optimizer=optimizer, lr_scheduler=scheduler, config=config
            )
        self.module = module
        self.zero_stage = stage
        self._zero = deepspeed.zero
        self._last_norm = float("nan")
        self._hooks: list[RemovableHandle] = []
        if self.zero_stage == 0:
            self._clip_ourselves(phase.max_grad_norm)
            # for one rank DeepSpeed would still copy every gradient twice in each step
            self.engine.enable_backward_allreduce = world_size() > 1
        if files and files.largest and self.device.type == "cpu" and world_size() == 1:
            self._copy_out_of_buffers()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        device: torch.device = self.engine.device
        return device

    @property
    def learning_rate(self) -> float:
        """The learning rate that the next step will use."""
        return float(self.scheduler.get_last_lr()[0])

    def train(self) -> None:
        """Switch dropout on; its rate is that of the recipe, 0 by default."""
        self.engine.train()

    def eval(self) -> None:
        """Switch dropout off."""
        self.engine.eval()

    def forward(self, **inputs: Any) -> Tensor:
        """Run the forward pass of the model.

        Args:
            inputs: The arguments of the model.
        """
        output: Tensor = self.engine(**inputs)
        return output

    def accumulate(self, task: Task, batch: Batch, weight: int, *, zero_weighted: bool = False) -> Sums:
        """Run forward and backward of one micro-batch, and add its gradient to those before.

        The gradient is exactly that of ``sum of losses / weight`` over the global batch: DeepSpeed averages over
        the ranks, so the loss is multiplied by their number first, and its division by accumulation steps is off.

        Args:
            task: Computes the loss.
            batch: The micro-batch.
            weight: Number of target tokens (or pairs) of the whole step, over all micro-batches and ranks.
            zero_weighted: Multiply the loss by zero, so that the pass adds nothing to any gradient. Stages 2 and 3
                need the same number of passes on every rank; a rank with fewer micro-batches makes such padding passes.

        Returns:
            The sums of the micro-batch, on the device.
        """
        sums = task.step(self.forward, batch.to(self.device))
        self.engine.backward(sums["loss"] * (0.0 if zero_weighted else world_size() / weight), scale_wrt_gas=False)
        return {name: value.detach() for name, value in sums.items()}

    def step(self) -> float:
        """Make one optimizer step with the accumulated gradients.

        Returns:
            The norm of the gradient before clipping.
        """
        self.engine.step()
        norm = self._last_norm if self.zero_stage == 0 else self.engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close(gather=error is None)  # after an error the other ranks do not take part

    def close(self, *, gather: bool = True) -> None:
        """Free the engine's buffers and hooks, and turn the model into a plain one, so that the next phase can start.

        Args:
            gather: At stage 3, gather the model on the first rank; all ranks have to take part.
        """
        fresh = self._gather_parameters() if gather and self.zero_stage == 3 else {}
        self.engine.destroy()
        nn.functional.linear = _LINEAR
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if fresh:  # plain dictionaries, too: DeepSpeed's would gather parameters from the other ranks
            for module in self.module.modules():
                module._parameters = {name: fresh.get(p, p) for name, p in module._parameters.items()}

    def _gather_parameters(self) -> dict[nn.Parameter | None, nn.Parameter]:
        """Map partitioned parameters to full ones in the first rank's host memory: a GPU may not hold all of them."""
        fresh: dict[nn.Parameter | None, nn.Parameter] = {}
        for parameter in self.module.parameters():
            with self._zero.GatheredParameters([parameter]):
                if rank() == 0:
                    full = parameter.data.to("cpu", copy=True)
                    fresh[parameter] = nn.Parameter(full, parameter.requires_grad)
        return fresh

    def _copy_out_of_buffers(self) -> None:
        """Copy each parameter that comes from a file out of its buffer while a module computes.

        Where nothing is gathered and nothing goes to a GPU, DeepSpeed lets the module compute with the buffer itself,
        which soon holds the next parameter; recomputed activations would still refer to it.
        """

        def copy(module: nn.Module, _: Any) -> None:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.clone()

        self._hooks = [module.register_forward_pre_hook(copy) for module in self.module.modules()]

    def _clip_ourselves(self, max_grad_norm: float) -> None:
        """Clip gradients just before the optimizer uses them: at stage 0 DeepSpeed clips without returning the norm."""

        def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self._last_norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))

        self._hooks.append(self.engine.basic_optimizer.register_step_pre_hook(clip))


@contextmanager
def _refusals_explained(section: DeepspeedSection, stage: int) -> Iterator[None]:
    """Turn DeepSpeed's errors about keys that exclude each other, found while it builds the engine, into ours."""
    try:
        yield
    except (AssertionError, ValueError, TypeError, KeyError, NotImplementedError, ImportError) as error:
        if not section.config:
            raise
        raise UserError(
            f"DeepSpeed refuses deepspeed.config: {error or type(error).__name__}",
            where=f"deepspeed.config, at ZeRO stage {stage}",
            hint="Remove the key that is named; RLHF_DEBUG=1 shows where in DeepSpeed it was refused.",
        ) from error


def _check(config: dict[str, Any]) -> None:
    """Let DeepSpeed validate a configuration before it builds anything from it."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except Exception as error:  # pydantic's, DeepSpeed's own, assertions: all of them are about the values
        raise UserError(f"DeepSpeed refuses deepspeed.config: {error}", hint="Fix the key that is named.") from error


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: matrices decay, vectors (biases and norms) do not.

    Empty groups are left out: DeepSpeed drops them, and the schedule would no longer fit.

    Args:
        module: The model.
        weight_decay: Weight decay of the matrices.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if len(shape_of(p)) > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if len(shape_of(p)) <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule_factor(schedule: ScheduleSection, steps: int) -> Callable[[int], float]:
    """Return the schedule of the learning rate: a linear warm-up from zero, then a decay.

    With ``w`` warm-up steps, the factor of step ``s`` is ``(s + 1) / (w + 1)`` during the warm-up. Then it falls from 1
    to ``final_ratio``, by a line or a cosine. The last step has ``final_ratio``; if that is 0, the step would change
    nothing, so zero is reached one step later.

    Args:
        schedule: Name, warm-up ratio and final ratio.
        steps: Total number of steps.

    Returns:
        A function from the number of a step, from 0, to the factor of ``learning_rate``.
    """
    warmup = math.ceil(schedule.warmup_ratio * steps)
    falling = max(1, steps - warmup - (1 if schedule.final_ratio else 0))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / falling)
        shapes = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return schedule.final_ratio + (1 - schedule.final_ratio) * shapes[schedule.name]

    return factor
