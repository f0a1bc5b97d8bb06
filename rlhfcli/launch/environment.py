"""What is set before torch and DeepSpeed are imported, in every process that is going to compute."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def in_this_process(*, offline: bool = False) -> None:
    """Prepare this process to be a rank, the only one or one of many.

    Args:
        offline: Forbid the network to all libraries, also where a hub name is not in the cache.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every fork
    # Packed batches have a new length at every step, and torch's CPU kernels keep 1,024 compiled shapes each: over a
    # gigabyte after some hundred steps of a small model, for shapes that hardly ever come again.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its makers' own; figures go where logging.to says
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for each other spin; beside any other busy program that costs more than the work itself.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    _keep_memory()
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline")


def _keep_memory() -> None:
    """Let what one step frees serve the next one, instead of going back to the system in between.

    Every tensor of more than some megabytes would otherwise be new pages each time, filled with zeros by the kernel
    one after the other: with OPT-125M's shape up to a quarter of a step. torch asks for huge pages besides.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt:
        mallopt(_TRIM_THRESHOLD, -1)
        # what is larger would leave holes of its size; older ones take 2**25 at most
        if not mallopt(_MMAP_THRESHOLD, 2**30):
            mallopt(_MMAP_THRESHOLD, 2**25)
