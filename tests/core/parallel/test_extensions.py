"""What can be built on this machine, and what is in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from rlhfcli.core.parallel import extensions
from rlhfcli.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def lock(folder: Path, name: str, modified: float) -> Path:
    path = folder / "py311_cpu" / name / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (modified, modified))
    return path


def test_locks_of_killed_builds(cache: Path) -> None:
    old, _ = lock(cache, "cpu_adam", 1e9), lock(cache, "fused_adam", 2e9)
    assert extensions.stale_locks(now=2e9 + 5) == [old]


@pytest.mark.parametrize(
    ("commands", "links", "missing"),
    [
        ((), True, "a C++ compiler"),
        (("c++",), True, "ninja"),
        (("clang++", "ninja"), False, "libaio with its headers"),
        (("g++", "ninja"), True, None),
    ],
)
def test_what_files_lack(
    commands: tuple[str, ...], links: bool, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] in commands
        return subprocess.CompletedProcess(command, 0 if links else 1)

    monkeypatch.setattr(shutil, "which", lambda name: name if name in commands else None)
    monkeypatch.setattr(subprocess, "run", run)
    assert extensions.missing_for_files() == missing


def test_what_is_built_lacks_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "py311_cpu" / "async_io").mkdir(parents=True)
    (cache / "py311_cpu" / "async_io" / "async_io.so").touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert extensions.missing_for_files() is None
    assert extensions.prepare_files() is None


def test_a_build_is_announced_and_never_waits_for_a_killed_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "missing_for_files", lambda: None)
    assert extensions.prepare_files() == "DeepSpeed builds async_io for deepspeed.nvme, once: some minutes"
    lock(cache, "fused_adam", 1e9)  # of something else
    assert extensions.prepare_files()
    stale = lock(cache, "async_io", 1e9)
    with pytest.raises(UserError) as caught:
        extensions.prepare_files()
    assert str(caught.value) == (
        f"{stale}: deepspeed.nvme would wait for a build that was killed\nIf nothing is building: rm {stale}"
    )


def test_a_lock_that_was_left_while_loading_is_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process was killed while it loaded what is built: torch would wait for it for ever."""
    left = lock(cache, "async_io", 1e9)
    built = left.with_name("async_io.so")
    built.touch()
    os.utime(built, (1e8, 1e8))
    assert extensions.prepare_files() is None
    assert not left.exists()

    left.touch()  # just now: somebody may be loading
    monkeypatch.setattr(extensions, "_LOADS_IN", 0.3)
    before = time.monotonic()
    assert extensions.prepare_files() is None
    assert time.monotonic() - before > 0.2 and not left.exists()

    left.touch()
    os.utime(left, (1e9, 1e9))
    built.touch()  # written since: it is being built anew
    with pytest.raises(UserError, match="would wait for a build that was killed"):
        extensions.prepare_files()
    assert left.exists()
