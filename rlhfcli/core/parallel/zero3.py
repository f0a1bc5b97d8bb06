"""ZeRO stage 3: a model that is partitioned from the start, so that no rank ever holds the whole model.

DeepSpeed's ``zero.Init`` partitions every parameter as soon as it is made; transformers loads such a model one tensor
at a time, each read by the first rank and divided among all. Code that touches a parameter before the engine drives
the model has to gather it first (``gathered``), or to ask for its full shape (``shape_of``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlhfcli.core.parallel.deepspeed_config import Files, configuration
from rlhfcli.core.parallel.own_rank import world_size
from rlhfcli.core.parallel.process_group import ensure_process_group, import_deepspeed
from rlhfcli.recipe.schema import DeepspeedSection


class _Partitioned:
    """The settings object that transformers asks when it makes a model; its own class of this kind needs accelerate."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def is_zero3(self) -> bool:
        """Say that parameters are partitioned when they are made."""
        return True


@contextmanager
def loading(section: DeepspeedSection, max_grad_norm: float, files: Files | None = None) -> Iterator[None]:
    """Make and load models in a partitioned form while this block runs, if they will be trained at stage 3.

    Args:
        section: The recipe's DeepSpeed section; the block changes nothing unless its stage is 3.
        max_grad_norm: Part of DeepSpeed's configuration.
        files: Folder and buffers of ``deepspeed.nvme``, if the section has it.
    """
    if section.zero_stage != 3:
        yield
        return
    ensure_process_group()
    settings = _Partitioned(
        configuration(section, max_grad_norm, cuda=torch.cuda.is_available(), files=files, ranks=world_size())
    )
    set_hf_deepspeed_config(settings)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()


def is_partitioned(module: nn.Module) -> bool:
    """Return whether a module's parameters are partitioned.

    Args:
        module: Any module.
    """
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def shape_of(parameter: Tensor) -> torch.Size:
    """Return the full shape of a parameter.

    Args:
        parameter: A parameter, partitioned or not.
    """
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


@contextmanager
def gathered(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Gather parameters while this block runs; all ranks take part, and what the first one changes is kept.

    Args:
        parameters: Parameters, partitioned or not.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        yield
        return
    with import_deepspeed().zero.GatheredParameters(partitioned, modifier_rank=0):
        yield
