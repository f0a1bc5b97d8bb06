"""A checkpoint written in the background holds the state at its start, and none of its errors is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.core import hardware
from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.background import Background
from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.training import parts, phases
from rlhfcli.errors import Interrupted, OutputError
from rlhfcli.progress import Silent
from tests.core.resume_worker import After, settings
from tests.core.training.test_phases import _project

TIMEOUT = 60


def fail() -> None:
    raise OutputError("the disk is full")


def test_work_runs_beside_and_is_waited_for() -> None:
    resume_command, done = threading.Event(), []
    with Background() as background:
        background.start(lambda: done.append(resume_command.wait(TIMEOUT)))
        assert not done
        resume_command.set()
    assert done == [True]


def test_the_next_work_waits_for_the_one_before() -> None:
    resume_command, order = threading.Event(), []
    with Background() as background:
        background.start(lambda: order.append((1, resume_command.wait(TIMEOUT))))
        threading.Timer(0.05, resume_command.set).start()
        background.start(lambda: order.append((2, True)))
    assert order == [(1, True), (2, True)]


@pytest.mark.parametrize("ask", ["check", "wait", "start", "end"])
def test_an_error_comes_out_once(ask: str) -> None:
    with pytest.raises(OutputError, match="the disk is full"), Background() as background:
        background.start(fail)
        assert background._thread is not None
        background._thread.join()
        if ask == "start":
            background.start(pytest.fail)
        elif ask != "end":
            getattr(background, ask)()
    background.check()


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_error_of_the_training_waits_for_the_work(error: type[Exception]) -> None:
    resume_command, done = threading.Event(), []
    with pytest.raises(error), Background() as background:
        background.start(lambda: done.append(resume_command.wait(TIMEOUT)))
        threading.Timer(0.05, resume_command.set).start()
        raise error("of the training")
    assert done == [True]


def test_a_second_ctrl_c_does_not_wait() -> None:
    resume_command = threading.Event()
    with pytest.raises(KeyboardInterrupt), Background() as background:
        background.start(lambda: resume_command.wait(TIMEOUT) and None)
        raise KeyboardInterrupt
    assert background._thread is not None and background._thread.is_alive()
    resume_command.set()
    background.wait()


class Steps(Silent):
    """Knows how far the training is."""

    def __init__(self) -> None:
        self.step, self.changed = 0, threading.Condition()

    def begin(self, title: str, total: int, unit: str = "steps", done: int = 0) -> None:
        self.step = 0

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        with self.changed:
            self.step = done
            self.changed.notify_all()

    def wait(self, step: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.step >= step, TIMEOUT)


def written(project: parts.PhaseInputs, monkeypatch: Any, *, held: bool) -> list[dict[str, Any]]:
    """What the manifests say of every checkpoint of a training of both phases in eleven steps, seconds aside.

    Args:
        project: Says when checkpoints are written.
        monkeypatch: Pytest's.
        held: Write in the background, and not before two more steps are made; else in the foreground.
    """
    found, save, steps = [], checkpoint_files.save, Steps()

    def watched(*arguments: Any) -> Path:
        assert steps.wait(min(arguments[3].step + 2, 11) if held else 0)
        assert (threading.current_thread() is threading.main_thread()) != held
        folder = save(*arguments)
        manifest = json.loads((folder / "manifest.txt").read_text().partition("\n")[2])
        del manifest["progress"]["seconds"], manifest["progress"]["window"]["seconds"]
        found.append(manifest)
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "save", watched)
        if not held:
            patch.setattr(hardware, "available_memory", lambda: 0)
        for train in (phases.train_sft, phases.train_reward):
            train(replace(project, sink=steps))
    return found


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_training_continues_while_the_writer_is_held_up(tmp_path: Path, stage: int, monkeypatch: Any) -> None:
    every = {"checkpoint": {"every": 4}, **settings(stage, max_steps=11)}
    at_once = written(_project(tmp_path / "at once", **every), monkeypatch, held=False)
    beside = written(_project(tmp_path / "beside", **every), monkeypatch, held=True)
    assert [manifest["progress"]["step"] for manifest in beside] == [4, 8, 11, 4, 8, 11]
    for one, other in zip(at_once, beside, strict=True):
        assert one["progress"] == other["progress"] and one["tensors"] == other["tensors"]
        assert one["files"] == other["files"]  # sizes and hashes


def test_what_cannot_be_written_ends_the_training_at_the_next_step(tmp_path: Path, monkeypatch: Any) -> None:
    project = _project(tmp_path, checkpoint={"every": 3}, **settings(1))
    save, began = checkpoint_files.save, []

    def broken(*arguments: Any) -> Path:
        if arguments[3].step == 6:
            began.append(threading.current_thread())
            raise OutputError("a checkpoint needs more room")
        return save(*arguments)

    class Waits(Silent):
        def advance(self, done: int, metrics: Mapping[str, float]) -> None:
            if began:
                began[0].join()

    monkeypatch.setattr(checkpoint_files, "save", broken)
    with pytest.raises(OutputError, match="needs more room"):
        phases.train_sft(replace(project, sink=Waits()))
    assert [folder.name for folder in (tmp_path / "run/sft/checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    phases.train_sft(replace(project, session=TrainingSession(resume=True)))


def test_a_stop_says_so_when_the_checkpoint_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    project = _project(tmp_path, checkpoint={"every": 3}, **settings(1))
    threads, save = [], checkpoint_files.save

    def slow(*arguments: Any) -> Path:
        threads.append(threading.current_thread().name)
        return save(*arguments)

    monkeypatch.setattr(checkpoint_files, "save", slow)
    with pytest.raises(Interrupted, match="after step 4 of 11, a checkpoint is written"):
        phases.train_sft(replace(project, session=TrainingSession(stop=After(4))))
    assert threads == ["checkpoint", "MainThread"]
    names = sorted(folder.name for folder in (tmp_path / "run/sft/checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"]
