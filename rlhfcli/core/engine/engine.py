"""The DeepSpeed engine, which drives a model.

One process is a run with one rank: the same code path as many. Nothing here needs a compiler, unless ``deepspeed.nvme``
asks for files: the optimizer is torch's AdamW, and the extension that DeepSpeed would build at start-up (for inference)
is left out.
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

_LINEAR = nn.functional.linear  # stage 3 puts one of its own in its place, for all models of this process


class Engine:
    """Drives one model with one optimizer.

    Args:
        module: The model; its parameters with ``requires_grad`` are trained.
        phase: Learning rate, schedule, clipping ... of the recipe.
        steps: Optimizer steps that will be made, for the schedule.
        section: How DeepSpeed lays the training state out.
        files: Where ``section.nvme`` is given.
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
            # with nobody to exchange gradients with DeepSpeed would still copy each of them twice, once a step
            self.engine.enable_backward_allreduce = world_size() > 1
        if files and files.largest and self.device.type == "cpu" and world_size() == 1:
            self._copy_out_of_buffers()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.engine.device
        return device

    @property
    def learning_rate(self) -> float:
        """The rate that the next step will use."""
        return float(self.scheduler.get_last_lr()[0])

    def train(self) -> None:
        """Switch dropout on (the recipe's is 0 unless it says otherwise)."""
        self.engine.train()

    def eval(self) -> None:
        """Switch dropout off."""
        self.engine.eval()

    def forward(self, **inputs: Any) -> Tensor:
        """The model's forward pass."""
        output: Tensor = self.engine(**inputs)
        return output

    def accumulate(self, task: Task, batch: Batch, weight: int, *, zero_weighted: bool = False) -> Sums:
        """Forward and backward of one micro-batch.

        The gradient is that of ``sum of losses / weight`` over the whole global batch, exactly: DeepSpeed averages over
        the ranks, so the loss is multiplied by their number first, and its own division by accumulation steps is off.

        Args:
            task: Gives the loss.
            batch: The micro-batch.
            weight: Target tokens (or pairs) of the whole step, all micro-batches and ranks together.
            zero_weighted: Multiply the loss by zero, so that the pass adds nothing to any gradient. Stages 2 and 3
                need the same number of passes on every rank; a rank with fewer micro-batches makes such padding passes.

        Returns:
            The sums of the micro-batch.
        """
        sums = task.step(self.forward, batch.to(self.device))
        self.engine.backward(sums["loss"] * (0.0 if zero_weighted else world_size() / weight), scale_wrt_gas=False)
        return {name: value.detach() for name, value in sums.items()}

    def step(self) -> float:
        """One optimizer step with what was accumulated.

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
        """Free the engine's buffers and hooks, and give the model back, so that the next phase can start.

        Args:
            gather: At stage 3, give the first rank the whole model; all ranks have to take part.
        """
        fresh = self._gather_parameters() if gather and self.zero_stage == 3 else {}
        self.engine.destroy()
        nn.functional.linear = _LINEAR
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if fresh:  # plain parameters in plain modules: DeepSpeed's would ask the other ranks for their parts
            for module in self.module.modules():
                module._parameters = {name: fresh.get(p, p) for name, p in module._parameters.items()}

    def _gather_parameters(self) -> dict[nn.Parameter | None, nn.Parameter]:
        """Stage 3's parameters to whole ones, in the first rank's host memory: a GPU may not hold all of them."""
        fresh: dict[nn.Parameter | None, nn.Parameter] = {}
        for parameter in self.module.parameters():
            with self._zero.GatheredParameters([parameter]):
                if rank() == 0:
                    whole = parameter.data.to("cpu", copy=True)
                    fresh[parameter] = nn.Parameter(whole, parameter.requires_grad)
        return fresh

    def _copy_out_of_buffers(self) -> None:
        """Give each parameter that comes from a file memory of its own while a module computes.

        Where nothing is gathered and nothing goes to a GPU, DeepSpeed lets the module compute with the buffer itself.
        Soon the next parameter is in it; but recomputed activations have kept what looked like this one.
        """

        def copy(module: nn.Module, _: Any) -> None:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.clone()

        self._hooks = [module.register_forward_pre_hook(copy) for module in self.module.modules()]

    def _clip_ourselves(self, max_grad_norm: float) -> None:
        """Stage 0 clips without saying what the norm was: do it here, just before the gradients are used."""

        def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self._last_norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))

        self._hooks.append(self.engine.basic_optimizer.register_step_pre_hook(clip))


@contextmanager
def _refusals_explained(section: DeepspeedSection, stage: int) -> Iterator[None]:
    """Much of a configuration DeepSpeed looks at only when it builds the engine: keys that do not go together."""
    try:
        yield
    except (AssertionError, ValueError, TypeError, KeyError, NotImplementedError, ImportError) as error:
        if not section.config:
            raise
        raise UserError(
            f"DeepSpeed refuses deepspeed.config: {error or type(error).__name__}",
            where=f"deepspeed.config, at ZeRO stage {stage}",
            hint="Take out the key that it speaks of; RLHF_DEBUG=1 shows where in DeepSpeed it was refused.",
        ) from error


def _check(config: dict[str, Any]) -> None:
    """Let DeepSpeed read a configuration before it builds anything from it."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(config)
    except Exception as error:  # pydantic's, DeepSpeed's own, assertions: all of them are about the values
        raise UserError(f"DeepSpeed refuses deepspeed.config: {error}", hint="Mend the key that is named.") from error


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices decay, biases and norms (everything of one dimension) do not.

    Empty groups are left out: DeepSpeed drops them, and the schedule would no longer fit.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if len(shape_of(p)) > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if len(shape_of(p)) <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def schedule_factor(schedule: ScheduleSection, steps: int) -> Callable[[int], float]:
    """The learning rate as a share of the highest: rises linearly from zero, then falls by the schedule's law.

    The last step that is made has ``final_ratio`` of it. Where that is 0 the step would change nothing, so zero is
    reached where one more step would be.

    Args:
        schedule: Name, warm-up and final share.
        steps: Steps in all.

    Returns:
        Step number (from 0) to factor.
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
