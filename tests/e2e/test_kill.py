"""Trainings that are killed, stopped, or run out of disk, and then go on: as a user would see it."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import Done, Project, changes, environment, start

SHORT = changes(checkpoint__every="2", checkpoint__best_by="loss")
TIMES = {"seconds", "tokens_per_second", "memory_gb"}


def end(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str]:
    """Exit code and what was told."""
    _, told = process.communicate(timeout=seconds)
    return process.returncode, told


def weights(run: Path, phase: str) -> dict[str, torch.Tensor]:
    return load_file(run / phase / "final" / "model.safetensors")


def lines(run: Path, phase: str) -> list[dict[str, float]]:
    found = map(json.loads, (run / phase / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def same(one: Path, two: Path, phase: str) -> None:
    a, b = weights(one, phase), weights(two, phase)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert lines(one, phase) == lines(two, phase)
    assert sorted(path.name for path in (two / phase).iterdir()) == ["final", "metrics.jsonl"]


@pytest.fixture
def resume(rlhf: Callable[..., Done]) -> Iterator[Callable[..., Done]]:
    """``rlhf`` in this process, with as many threads as the commands that it goes on after: else the sums differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(environment()["OMP_NUM_THREADS"]))
    yield rlhf
    torch.set_num_threads(threads)


def without(finished: Path, folder: Path, phase: str) -> Path:
    """A copy of a finished run in which a phase is still to be trained."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    for later in ("reward", "sft") if phase == "sft" else ("reward",):
        shutil.rmtree(folder / "runs/tiny" / later, ignore_errors=True)
    return folder / "runs/tiny"


def train_until_killed(folder: Path, command: list[str], phase: str, delay: float) -> bool:
    """Kill a training some time after it has begun to write metrics; whether it was still there."""
    metrics = folder / "runs/tiny" / phase / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else None
    process = start(*command, folder=folder)
    deadline = time.monotonic() + 120
    while (metrics.stat().st_mtime_ns if metrics.exists() else None) == before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    process.kill()
    code, told = end(process)
    assert code in ((-signal.SIGKILL, 0) if alive else (0,)), told
    return code != 0


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_a_killed_training_goes_on_to_the_same_weights(
    project: Project, tmp_path: Path, resume: Callable[..., Done], phase: str
) -> None:
    command = [phase, "--resume", *SHORT]
    undisturbed = without(project.folder, tmp_path / "undisturbed", phase)
    assert resume(*command, folder=tmp_path / "undisturbed").code == 0
    run = without(project.folder, tmp_path, phase)
    draw = random.Random(phase)
    killed = [train_until_killed(tmp_path, command, phase, draw.uniform(0.0, 0.2)) for _ in range(2)]
    assert killed == [True, True]
    done = resume(*command, folder=tmp_path)
    assert done.code == 0, done.err
    same(undisturbed, run, phase)


def test_what_is_said_on_the_way(project: Project, tmp_path: Path, resume: Callable[..., Done]) -> None:
    run = without(project.folder, tmp_path, "sft")
    stopped = resume("sft", *SHORT, "--max-time", "1s", folder=tmp_path)
    assert stopped.code == 130
    last = r"interrupted: the time is over after step (\d) of 6, a checkpoint is written; rlhf sft --resume continues"
    told = re.fullmatch(last, stopped.err.splitlines()[-1])
    assert told, stopped.err
    step = int(told[1])  # how far a second is enough depends on the machine
    left = f"runs/tiny/sft/checkpoints/step-{step:08}"
    refused = resume("sft", *SHORT, folder=tmp_path)
    assert (refused.code, refused.err.splitlines()[-2:]) == (
        2,
        [
            f"output error: {left}: the sft phase of this run was stopped after step {step}",
            "--resume continues from there, --overwrite begins again; --set output_dir=… keeps both.",
        ],
    )
    before = (run / "recipe.yaml").read_text()
    other = resume("sft", *SHORT, "--resume", "--set", "sft.learning_rate=0.002", folder=tmp_path)
    assert other.code == 2
    assert f"output error: {left}: the checkpoint was trained with other settings\n" in other.err
    assert "\nsft.learning_rate: 0.003 (checkpoint) 0.002 (now)\n" in other.err
    assert (run / "recipe.yaml").read_text() == before
    again = resume("sft", "--resume", folder=tmp_path)
    assert again.code == 0
    assert f"resuming after step {step}: {left}" in again.err
    same(project.run, run, "sft")
    done = resume("sft", "--resume", folder=tmp_path)
    assert (done.code, done.err.splitlines()[-1]) == (0, "sft: already done, nothing to do (--overwrite repeats it)")


@pytest.mark.slow
def test_ranks_stop_together_and_one_goes_on_alone(project: Project, tmp_path: Path) -> None:
    run = without(project.folder, tmp_path, "sft")
    long = changes(sft__max_steps="10000", sft__epochs="10000", logging__every="1")
    process = start("sft", "--ranks", "2", *long, folder=tmp_path)
    metrics, deadline = run / "sft" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or '"loss"' not in metrics.read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, told = end(process)
    assert code == 130
    assert told.count("interrupted") == 1
    assert re.search(r"interrupted: asked to stop after step \d+ of 10,000, a checkpoint is written; rlhf sft", told)
    assert sorted(path.name for path in run.iterdir()) == ["data", "eval", "recipe.yaml", "run.json", "sft"]
    code, told = end(start("sft", "--resume", "--max-time", "1s", folder=tmp_path))
    assert code == 130
    assert "resuming after step " in told


@pytest.mark.slow
def test_the_time_of_ranks_under_a_hostfile(project: Project, tmp_path: Path) -> None:
    run = without(project.folder, tmp_path, "sft")
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    code, told = end(start("sft", "--hostfile", "hosts", "--max-time", "1s", *SHORT, folder=tmp_path))
    assert code == 130, told
    assert re.search(r"interrupted: the time is over after step \d of 6", told)
    assert "Traceback" not in told and "a rank has failed" not in told
    assert len([path.name for path in (run / "sft/checkpoints").iterdir()]) == 1
