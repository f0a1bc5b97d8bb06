"""The device of this process, whether it computes in bf16, and how much memory there is and was used."""

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
    """Return the device that this process computes on: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def computes_bf16(dtype: str) -> bool:
    """Return whether to compute in bfloat16.

    Args:
        dtype: ``bf16``, ``fp32``, or ``auto``: bf16 where the hardware multiplies such matrices natively.
    """
    if dtype != "auto":
        return dtype == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def available_memory() -> int:
    """Return the bytes of memory that are left on the machine, within the limits of this process's container or job."""
    return int(min([psutil.virtual_memory().available, *cgroup_available()]))


def total_memory() -> int:
    """Return the bytes of memory of the machine, or of this process's container or job where that has fewer."""
    return int(min([psutil.virtual_memory().total, *cgroup_limits()]))


def _release_freed_memory() -> None:
    """Return freed memory, which is kept for the next step (see ``launch.environment``), to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def cgroup_available(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """Yield the bytes left of the limit of each of Linux's control groups around this process.

    Args:
        groups: The file that names them (see ``cgroup_limits``).
        tree: The folder that has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for folder, limit, used in _with_limits(groups, tree):
        try:
            yield limit - int((folder / used).read_text()) + _cached(folder)
        except (OSError, ValueError):
            continue


def cgroup_limits(groups: Path = _GROUPS, tree: Path = _TREE) -> Iterator[int]:
    """Yield the memory limit of each of Linux's control groups around this process.

    Args:
        groups: The file that names them: ``0::/job/step``, or ``4:memory:/job/step`` in their first version.
        tree: The folder that has a folder for each.

    Yields:
        Bytes; nothing for a group without a limit.
    """
    for _, limit, _ in _with_limits(groups, tree):
        yield limit


def _with_limits(groups: Path, tree: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield the folder of each group that has a limit, the limit, and the name of the file with the used bytes."""
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
            except (OSError, ValueError):  # not visible from here, or "max"
                continue


def _cached(group: Path) -> int:
    """Return the bytes of a group's file cache, which the kernel frees when memory is needed."""
    found = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))


def process_peak_gb() -> float:
    """Return the peak memory so far in GB: the GPU's where there is one, else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def reset_peak() -> None:
    """Let ``peak_gb`` count from now, where the system can do that."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        _release_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Return the peak memory since ``reset_peak`` in GB; since the start where the system does not record it."""
    peak = None if torch.cuda.is_available() else _status("VmHWM")
    return process_peak_gb() if peak is None else peak / 1e9


def resident_memory() -> int:
    """Return the bytes that this process has now; at its peak where the system does not record it."""
    resident = _status("VmRSS")
    return round(process_peak_gb() * 1e9) if resident is None else resident


def _status(field: str) -> int | None:
    """Return the bytes of a field of Linux's record of this process."""
    status = Path("/proc/self/status")
    return int(status.read_text().partition(f"{field}:")[2].split()[0]) * 1024 if status.exists() else None


def memory_limit_gb() -> float:
    """Return the memory that training may use in GB: what is free, and what this process has already.

    Other processes may use a part of a GPU; on a CPU, a container or a job may have less than the machine.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / 1e9
    return available_memory() / 1e9 + peak_gb()
