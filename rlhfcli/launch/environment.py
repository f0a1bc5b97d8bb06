"""Prepare the environment of a process before it imports torch and DeepSpeed."""

from __future__ import annotations

import ctypes
import os
import sys

from rlhfcli.errors import LaunchError

_NUMBERS = ("RANK", "LOCAL_RANK", "MASTER_PORT")
_RANK = (*_NUMBERS, "MASTER_ADDR")  # variables of each of several ranks, besides WORLD_SIZE
_OF_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def in_this_process(*, offline: bool = False) -> None:
    """Prepare this process to be a rank, the only one or one of many.

    Args:
        offline: Forbid all libraries the network, also for a hub name that is not in the cache.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every fork
    # Packed batches have a new length at every step, and torch's CPU kernels keep 1,024 compiled shapes each: over a
    # gigabyte after some hundred steps of a small model, for shapes that hardly ever come again.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports to its makers; figures go where logging.to says
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for each other spin; beside any other busy program that costs more than the work itself.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    _keep_memory()
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline")


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def check_launcher() -> str | None:
    """Check the variables of launchers in the environment, before a training.

    Returns:
        A note for the user if this process does not join others that another program has started; else ``None``.

    Raises:
        LaunchError: ``WORLD_SIZE`` names several ranks, and variables that they need to find each other are missing.
    """
    ranks = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in _RANK if not os.environ.get(name)]
    wrong = [name for name in ("WORLD_SIZE", *_NUMBERS) if not os.environ.get(name, "0").isdecimal()]
    if ranks != "1" and (wrong or missing):
        what = f"{' and '.join(wrong)} must be a whole number" if wrong else f"{', '.join(missing)} is missing"
        raise LaunchError(
            f"the environment speaks of {ranks} ranks, but {what}",
            where=f"WORLD_SIZE={ranks}",
            hint="Left over from another program? unset WORLD_SIZE RANK LOCAL_RANK. To train on several ranks: "
            "--gpus N, --ranks N, or torchrun.",
        )
    for name in _OF_MPI:
        count = os.environ.get(name, "")
        if ranks == "1" and count.isdecimal() and int(count) > 1:
            return (
                f"{name}={count}: MPI or Slurm has started {count} processes. rlhf does not join them, this one trains "
                "alone; --gpus and --ranks start several ranks"
            )
    return None


def _keep_memory() -> None:
    """Keep memory that a step frees for the next one, instead of returning it to the system.

    Every tensor of more than some megabytes would otherwise get new pages each time, which the kernel fills with zeros:
    with OPT-125M's shape up to a quarter of a step. torch also asks for huge pages.
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
