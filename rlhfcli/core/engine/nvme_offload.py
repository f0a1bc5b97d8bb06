"""``deepspeed.nvme``: the folder in which a process keeps offloaded tensors, and its removal.

Each process has a folder of its own, since runs may share a disk, and holds a lock on a file in it. A process that is
killed cannot remove its folder, but the kernel releases its lock: the next run removes folders without one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.models import loading as models
from rlhfcli.core.parallel import extensions
from rlhfcli.core.parallel.deepspeed_config import BUFFERS, Files
from rlhfcli.errors import writing
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import DeepspeedSection, ModelSection

_PREFIX, _LOCK = "rlhf-", "lock"


class OffloadFiles(AbstractContextManager["OffloadFiles"]):
    """The folder of this process, until the end of its block or else of the process.

    Args:
        section: The recipe's DeepSpeed section; without ``nvme`` there is no folder.
        in_memory: Returns the size of the largest parameter, and the number of parameters that are in memory at the
            same time; called only if parameters are offloaded to files.
        sink: Shows that an extension of DeepSpeed has to be built.

    Raises:
        OutputError: The folder cannot be written.
        UserError: DeepSpeed's extension is missing and cannot be built.
    """

    def __init__(self, section: DeepspeedSection, in_memory: Callable[[], tuple[int, int]], sink: Sink) -> None:
        self.used: Files | None = None  # ``None``: nothing is offloaded to files
        if section.nvme is None:
            return
        wait = extensions.prepare_files()
        if wait:
            sink.note(wait)
        self._folder, self._lock = _folder(Path(section.nvme))
        self.used = Files(self._folder.name, *in_memory()) if section.offload == "all" else Files(self._folder.name)

    def __exit__(self, *_: object) -> None:
        if self.used:
            self._lock.close()
            self._folder.cleanup()


def parameters_in_memory(
    auto_class: Any, base: str, tokenizer: PreTrainedTokenizerBase, section: ModelSection
) -> tuple[int, int]:
    """Return the size of a model's largest parameter, and how many parameters are in memory at the same time.

    A layer that is recomputed in the backward pass keeps its frozen parameters until the pass has left it.

    Args:
        auto_class: ``AutoModelForCausalLM`` or ``AutoModelForSequenceClassification``.
        base: Hub name or folder; only its config is loaded.
        tokenizer: The tokenizer, to whose size the embeddings are extended.
        section: The recipe's model section.

    Returns:
        Numbers in the largest parameter, and the number of parameters.
    """
    config = models.load_config(base, trust_remote_code=section.trust_remote_code)
    with torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=section.trust_remote_code)
        fit_embeddings(model, tokenizer)
    return in_memory(model, recomputed=section.gradient_checkpointing)


def in_memory(model: nn.Module, *, recomputed: bool) -> tuple[int, int]:
    """Return the same for an existing model, which may be on the meta device.

    Args:
        model: The model.
        recomputed: Activations are recomputed in the backward pass.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    matrices = [sum(p.dim() > 1 for p in layer.parameters()) for layer in layers if recomputed]
    largest = max(parameter.numel() for parameter in model.parameters())
    return largest, max([BUFFERS, *(count + 2 for count in matrices)])


def _folder(place: Path) -> tuple[tempfile.TemporaryDirectory[str], IO[str]]:
    """Make a folder, and open the file in it whose lock marks it as in use."""
    with writing(place, "the folder of deepspeed.nvme", "Choose another one: --set deepspeed.nvme=…"):
        place.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place)
        folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True)
        lock = (Path(folder.name) / _LOCK).open("w")  # stays open as long as the folder is in use
        _acquire(lock)
    return folder, lock


def _remove_abandoned(place: Path) -> None:
    """Remove the folders of processes that have ended. A folder without a lock file is just being made."""
    for file in place.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with file.open("a") as lock:
                _acquire(lock)
                shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:  # in use, or another user's
            continue


def _acquire(lock: IO[str]) -> None:
    import fcntl  # Windows has none, and no libaio either

    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
