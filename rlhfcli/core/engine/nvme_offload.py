"""``deepspeed.nvme``: the folder in which a process keeps what it has offloaded, and who takes it away.

Each process has a folder of its own, since runs may share a disk, and holds a lock on a file in it. A process that is
killed cannot take its folder away, but its lock goes with it: the next run that comes by finds the folder without one.
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
    """The folder of this process, while the ``with`` block runs; without the block, until the process ends.

    Args:
        section: Of the recipe; without ``nvme`` there is no folder.
        in_memory: Tells how many parameters, and how large ones, have to be in memory at the same time; asked only if
            parameters will lie in files.
        sink: Is told that an extension of DeepSpeed's has to be built.

    Raises:
        OutputError: Nothing can be written there.
        UserError: DeepSpeed's extension is missing and cannot be built.
    """

    def __init__(self, section: DeepspeedSection, in_memory: Callable[[], tuple[int, int]], sink: Sink) -> None:
        self.used: Files | None = None  # nothing is kept in files
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
    kind: Any, base: str, tokenizer: PreTrainedTokenizerBase, section: ModelSection
) -> tuple[int, int]:
    """How many parameters of a model have to be in memory at the same time, and how large they are.

    A layer that is recomputed in the backward pass keeps those that are not trained until the pass has left it.

    Args:
        kind: ``AutoModelForCausalLM`` or ``AutoModelForSequenceClassification``.
        base: Hub name or folder; nothing is loaded but its config.
        tokenizer: The embeddings grow to its size.
        section: The recipe's model section.

    Returns:
        Numbers of the largest parameter, and how many parameters.
    """
    config = models.load_config(base, trust_remote_code=section.trust_remote_code)
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=section.trust_remote_code)
        fit_embeddings(model, tokenizer)
    return in_memory(model, recomputed=section.gradient_checkpointing)


def in_memory(model: nn.Module, *, recomputed: bool) -> tuple[int, int]:
    """The same of a model that is there, if only its shapes are."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    matrices = [sum(p.dim() > 1 for p in layer.parameters()) for layer in layers if recomputed]
    largest = max(parameter.numel() for parameter in model.parameters())
    return largest, max([BUFFERS, *(count + 2 for count in matrices)])


def _folder(place: Path) -> tuple[tempfile.TemporaryDirectory[str], IO[str]]:
    """A new folder, and the open file whose lock says that it is in use."""
    with writing(place, "the folder of deepspeed.nvme", "Choose another one: --set deepspeed.nvme=…"):
        place.mkdir(parents=True, exist_ok=True)
        _tidy(place)
        folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True)
        lock = (Path(folder.name) / _LOCK).open("w")  # stays open as long as the folder is in use
        _take(lock)
    return folder, lock


def _tidy(place: Path) -> None:
    """Take away the folders of processes that are gone. One without a file to lock is just being made."""
    for file in place.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with file.open("a") as lock:
                _take(lock)
                shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:  # in use, or somebody else's
            continue


def _take(lock: IO[str]) -> None:
    import fcntl  # there is none on Windows, and no libaio either

    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
