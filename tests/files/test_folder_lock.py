"""One command at a time in a folder: between processes, after a kill, and between machines without common locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfcli.errors import OutputError
from rlhfcli.files import folder_lock

HOLD = (
    "import sys, time; from pathlib import Path; from rlhfcli.files import folder_lock\n"
    "with folder_lock.locked(Path(sys.argv[1]), 'rlhf sft --recipe mine.yaml'):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def take(folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
    with folder_lock.locked(folder, "rlhf reward", say=say):
        pass


def test_the_other_command_learns_who_holds_the_folder(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        with pytest.raises(OutputError, match=r"in use by rlhf sft --recipe mine.yaml \(process ") as caught:
            take(tmp_path)
        assert f"process {other.pid}, since 20" in caught.value.what and caught.value.where == str(tmp_path)
        other.send_signal(signal.SIGKILL)
    assert (tmp_path / folder_lock.HOLDER).exists()  # it had no time to tidy up
    with folder_lock.locked(tmp_path, "rlhf reward"):
        assert json.loads((tmp_path / folder_lock.HOLDER).read_text())["command"] == "rlhf reward"
    assert list(tmp_path.iterdir()) == []


def test_a_long_command_is_cut(tmp_path: Path) -> None:
    with folder_lock.locked(tmp_path, f"rlhf sft {'--set seed=1 ' * 20}"), pytest.raises(OutputError) as caught:
        take(tmp_path)
    assert caught.value.what.startswith("in use by rlhf sft --set seed=1 ") and " … (process" in caught.value.what
    assert len(caught.value.what) < 150


def test_a_command_with_bytes_that_are_no_unicode(tmp_path: Path) -> None:
    with (
        folder_lock.locked(tmp_path, "rlhf sft --recipe b\udcff.yaml"),
        pytest.raises(OutputError, match="in use by rlhf sft"),
    ):
        take(tmp_path)


def test_entries_of_a_folder_have_locks_of_their_own(tmp_path: Path) -> None:
    with folder_lock.locked(tmp_path, "rlhf export", name="a"), folder_lock.locked(tmp_path, "rlhf export", name="b"):
        with pytest.raises(OutputError) as caught, folder_lock.locked(tmp_path, "rlhf export", name="a"):
            pass
        assert caught.value.where == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def elsewhere(folder: Path) -> Path:
    """The file of a command on a machine whose lock does not reach us."""
    file = folder / folder_lock.HOLDER
    about = {
        "host": "node7",
        "machine": "another",
        "process": 12,
        "command": "rlhf sft",
        "since": "2026-01-02T03:04:05",
    }
    file.write_text(json.dumps(about))
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "STALE_AFTER", 0.6)
    monkeypatch.setattr(folder_lock, "HEARTBEAT", 0.1)


def test_a_command_on_another_machine_is_noticed_without_its_lock(tmp_path: Path, quick: None) -> None:
    file, stop = elsewhere(tmp_path), threading.Event()
    threading.Thread(target=folder_lock._touch, args=(file, stop), daemon=True).start()
    said: list[str] = []
    with pytest.raises(OutputError, match=r"in use by rlhf sft \(process 12 on node7, since 2026-01-02 03:04\)"):
        take(tmp_path, said.append)
    stop.set()
    assert "node7" in said[0] and file.exists()  # it is the other's


def test_a_command_that_was_killed_on_another_machine_is_waited_for_once(tmp_path: Path, quick: None) -> None:
    elsewhere(tmp_path)
    with folder_lock.locked(tmp_path, "rlhf reward"):
        assert json.loads((tmp_path / folder_lock.HOLDER).read_text())["process"] == os.getpid()


def test_without_locks_a_command_at_work_is_noticed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.FileLock, "acquire", none)
    said: list[str] = []
    with (
        folder_lock.locked(tmp_path, "rlhf sft", say=said.append),
        pytest.raises(OutputError, match="in use by rlhf sft"),
    ):
        take(tmp_path)
    assert "has no locks" in said[0] and list(tmp_path.iterdir()) == []
    take(tmp_path)


def test_the_holder_touches_its_file(tmp_path: Path, quick: None) -> None:
    with folder_lock.locked(tmp_path, "rlhf sft"):
        before = (tmp_path / folder_lock.HOLDER).stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / folder_lock.HOLDER).stat().st_mtime_ns > before


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '{"command": 3}'])
def test_a_lock_whose_holder_cannot_be_read(tmp_path: Path, text: str) -> None:
    with folder_lock.locked(tmp_path, "rlhf sft"):
        (tmp_path / folder_lock.HOLDER).write_text(text)
        with pytest.raises(OutputError, match="in use by"), folder_lock.locked(tmp_path, "rlhf reward"):
            pass


def test_a_folder_that_vanishes_in_between_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, once = tmp_path / "new", [True]
    acquire = folder_lock.FileLock.acquire

    def vanishing(*args: object, **more: object) -> object:
        if once.pop() if once else False:
            folder.rmdir()
        return acquire(*args, **more)

    monkeypatch.setattr(folder_lock.FileLock, "acquire", vanishing)
    with folder_lock.locked(folder, "rlhf sft"):
        assert (folder / folder_lock.LOCK).exists()
