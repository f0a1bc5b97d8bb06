"""Memory that may be used: the least that is left in the machine and in every control group around the process."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rlhfcli.cli.inspect.doctor import _memory
from rlhfcli.core import hardware
from rlhfcli.core.capacity import dry_run


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_every_group_counts(tmp_path: Path) -> None:
    names = tmp_path / "cgroup"
    names.write_text("0::/queue/job/step\n")
    group(tmp_path / "queue", memory__max="1000", memory__current="400", memory__stat="anon 300\ninactive_file 100")
    group(tmp_path / "queue/job", memory__max="max", memory__current="350", memory__stat="inactive_file 50")
    group(tmp_path / "queue/job/step", memory__max="600", memory__current="300", memory__stat="inactive_file 0")
    assert list(hardware.cgroup_available(names, tmp_path)) == [300, 700]
    assert list(hardware.cgroup_limits(names, tmp_path)) == [600, 1000]


def test_the_first_version_of_groups(tmp_path: Path) -> None:
    names = tmp_path / "cgroup"
    names.write_text("12:cpu,cpuacct:/a\n4:memory:/docker/1234\n")
    stat = "inactive_file 7\ntotal_inactive_file 10"
    root = {"memory__limit_in_bytes": "500", "memory__usage_in_bytes": "100", "memory__stat": stat}
    group(tmp_path / "memory", **root)  # a container sees its own group as the root
    assert list(hardware.cgroup_available(names, tmp_path)) == [410]


def test_without_groups_the_machine_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(hardware.cgroup_available(tmp_path / "none", tmp_path)) == []
    monkeypatch.setattr(hardware, "cgroup_available", list)
    assert 0 < hardware.available_memory() <= psutil.virtual_memory().total
    monkeypatch.setattr(hardware, "cgroup_available", lambda: [12, 1 << 60])
    assert hardware.available_memory() == 12


def test_one_reader_of_memory_for_dry_run_bench_and_doctor(monkeypatch):
    """In a container of 4 GB on a large host."""
    monkeypatch.setattr(hardware, "cgroup_available", lambda: [3_000_000_000])
    monkeypatch.setattr(hardware, "cgroup_limits", lambda: [4_000_000_000])
    monkeypatch.setattr(hardware, "peak_gb", lambda: 0.5)
    assert hardware.memory_limit_gb() == 3.5
    assert dry_run.room(2) == 1.75e9
    found = next(iter(_memory())).found
    assert found.startswith("4.0 GB (of ") and found.endswith("a container or a job has a limit), 3.0 GB can be used")
