"""What this process computes on: its device, whether that has bf16, and how much memory there is and was used."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
import torch

_GROUPS = Path("/proc/self/cgroup")
_TREE = Path("/sys/fs/cgroup")


def device() -> torch.device:
    """Where this process computes: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def computes_bf16(dtype: str) -> bool:
    """Whether to compute in bfloat16.

    Args:
        dtype: ``bf16``, ``fp32``, or ``auto``: bf16 where the hardware multiplies such matrices natively.
    """
    if dtype != "auto":
        return dtype == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def available() -> int:
    """Bytes that the machine can give, and the container or the queue's job that this process is in."""
    return int(min([psutil.virtual_memory().available, *left_in_groups()]))


def total() -> int:
    """Bytes that the machine has, or the container or the queue's job that this process is in."""
    return int(min([psutil.virtual_memory().total, *limits_of_groups()]))


def give_back() -> None:
    """Return to the system what was freed and is kept for the next step (see ``launch.environment``)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def left_in_groups(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """What is left of the limit of each of Linux's control groups around this process.

    Args:
        groups: Names them (see ``limits_of_groups``).
        tree: Has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for folder, limit, used in _with_limits(groups, tree):
        try:
            yield limit - int((folder / used).read_text()) + _cached(folder)
        except (OSError, ValueError):
            continue


def limits_of_groups(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """The limit of each of Linux's control groups around this process.

    Args:
        groups: Names them: ``0::/job/step``, or ``4:memory:/job/step`` in their first version.
        tree: Has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for _, limit, _ in _with_limits(groups, tree):
        yield limit


def _with_limits(groups: Path, tree: Path) -> Iterator[tuple[Path, int, str]]:
    """The folder of each group that has a limit, the limit, and the name of the file that says what is used."""
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, limit, used = (
            (tree / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else (tree, "memory.max", "memory.current")
        )
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = top / group.relative_to("/")
            try:
                yield folder, int((folder / limit).read_text()), used
            except (OSError, ValueError):  # not seen from here, or "max"
                continue


def _cached(group: Path) -> int:
    """Bytes that a group uses for files, and gives back when they are wanted."""
    found = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))


def memory_gb() -> float:
    """Most memory used so far in GB: the GPU's where there is one, else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def reset_peak() -> None:
    """Let ``peak_gb`` count from now, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        give_back()
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Most memory used since ``reset_peak`` in GB, where the system tells; else since the start."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return memory_gb()
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def memory_limit_gb() -> float:
    """Memory that training may use in GB: what is free, and what this process has already.

    On a GPU others may use a part of it; on a CPU a container or a queue's job may have less than the machine.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / 1e9
    return available() / 1e9 + peak_gb()
