"""Stage 3: a model that is in pieces from the start, so that no rank ever holds the whole of it.

DeepSpeed's ``zero.Init`` cuts every parameter as soon as it is made; transformers loads such a model one tensor after
the other, each read by the first rank and cut for all. What is done with a parameter before the engine drives the model
has to ask for the whole of it first, or for its whole shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlhfcli.core.parallel.deepspeed_config import Files, configuration
from rlhfcli.core.parallel.process_group import ensure_process_group, import_deepspeed
from rlhfcli.core.parallel.ranks import world_size
from rlhfcli.recipe.schema import Deepspeed


class _Partitioned:
    """What transformers asks when it makes a model; its own class of this kind needs accelerate."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def is_zero3(self) -> bool:
        """Parameters are cut when they are made."""
        return True


@contextmanager
def loading(section: Deepspeed, max_grad_norm: float, files: Files | None = None) -> Iterator[None]:
    """While this block runs, models are made and loaded in pieces, if they will be trained so.

    Args:
        section: Of the recipe; nothing happens unless its stage is 3.
        max_grad_norm: Belongs to the configuration.
        files: Where the pieces go if ``section`` says so.
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
    """Whether a module's parameters are cut."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def shape_of(parameter: Tensor) -> torch.Size:
    """The whole shape of a parameter, cut or not."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


@contextmanager
def whole(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Put parameters together for a while; all ranks take part, and what the first one changes stays.

    Args:
        parameters: Cut or not.
    """
    cut = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not cut:
        yield
        return
    with import_deepspeed().zero.GatheredParameters(cut, modifier_rank=0):
        yield
