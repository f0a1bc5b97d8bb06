"""Find the memory that a training step needs, with the real model on tensors that have shapes but no storage.

torch can run a program on *fake* tensors, which have a shape, a precision and a device, and nothing else. A model of
any size is made of them in a moment, with its LoRA layers and its head, so its parameters are counted, not guessed. Its
forward and backward pass run as well, through the same attention, autocast and recomputation as in training. The
storages that would be alive at each moment are added up; their maximum is the memory of the activations.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhfcli.core.hardware import device
from rlhfcli.core.models import loading as models
from rlhfcli.core.packing.strategy import Strategy, computing_with
from rlhfcli.core.tasks.task import Batch, Task
from rlhfcli.errors import ModelError


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Make all new tensors fake while this block runs, on this process's device; real ones may take part."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device()):
        yield


def activation_bytes(module: Any, task: Task, batch: Batch, *, strategy: Strategy, checkpointing: bool) -> int:
    """Return the peak memory of a forward and backward pass, without the parameters and their gradients.

    Args:
        module: The module of the phase, made of fake tensors; its parameters with ``requires_grad`` are trained.
        task: Computes the loss.
        batch: The micro-batch.
        strategy: How the model computes it.
        checkpointing: Activations are recomputed in the backward pass.

    Returns:
        The peak in bytes. A gradient counts only until it is complete: then it belongs to the gradients.

    Raises:
        ModelError: The family's forward pass reads numbers, which fake tensors do not have.
    """
    try:
        return _activation_bytes(module, task, batch, strategy=strategy, checkpointing=checkpointing)
    except DataDependentOutputException:  # it checks whether there are pads at all
        batch = replace(batch, layout=replace(batch.layout, attention_mask=None))
    except RuntimeError as error:
        raise _unknown(module, error) from error
    try:
        return _activation_bytes(module, task, batch, strategy=strategy, checkpointing=checkpointing)
    except RuntimeError as error:
        raise _unknown(module, error) from error


def _unknown(module: Any, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0]
    return ModelError(
        f"the memory of a step of {type(module.model).__name__} cannot be found without running it ({reason})",
        hint="Measure it on a machine where it fits: rlhf bench.",
    )


def _activation_bytes(module: Any, task: Task, batch: Batch, *, strategy: Strategy, checkpointing: bool) -> int:
    hooks = [p.register_post_accumulate_grad_hook(_forget) for p in module.parameters() if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(computing_with(module.model, strategy))
        if checkpointing:
            stack.enter_context(models.recomputed_activations(module.model))
        stack.enter_context(fake_tensors())
        alive: _Alive = stack.enter_context(_Alive(module))
        for hook in hooks:
            stack.callback(hook.remove)
        task.step(module.train(), batch.to(device()))["loss"].backward()  # type: ignore[no-untyped-call]
    return alive.most


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make while it is active, as long as they are alive.

    Args:
        module: The module, whose parameters and buffers do not count.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in [*module.parameters(), *module.buffers()])

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._grouped_mm.default and args[0].dtype == torch.float32:
            # experts: a CPU multiplies them in float32, fake tensors only in bf16
            args = [arg.bfloat16() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
            result = operation(*args, **(kwargs or {})).float()
        else:
            result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:  # a view, or changed in place
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size
