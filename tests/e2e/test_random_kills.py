"""Trainings and exports that are killed at random moments, every kind of moment among them, lose nothing.

What a moment was is read from the folder afterwards: nothing changes in it once the process is dead.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rlhfcli.errors import ModelError
from rlhfcli.files import checksums
from tests.e2e.conftest import Project, changes, start, write_prompts
from tests.e2e.test_kill import end, same, without
from tests.e2e.test_ranks import ranks_of

STEPS, EVERY = 20, 5  # evaluations come after every fifth step
LONGER = changes(
    sft__max_steps=str(STEPS),
    sft__epochs="9",
    reward__max_steps=str(STEPS),
    reward__epochs="9",
    checkpoint__every="3",
    checkpoint__best_by="accuracy",  # of the validation part, which often is as high before the last step
    logging__every="1",
    eval__every=str(EVERY),
    eval__prompts="../prompts.jsonl",
)
MOMENTS = {"step", "evaluation", "checkpoint", "final"}
AIMS = ("any", "evaluation", "checkpoint", "final")  # "any" is a step, more often than not
KILLS = 12  # of each phase in each layout
LAYOUTS = {
    "one rank": [],
    "two ranks": ["--ranks", "2"],
    "two ranks, stage 3": ["--ranks", "2", "--set", "deepspeed.zero_stage=3"],
}


def moment(phase: Path) -> str:
    """What a training is at, or was at when it was killed."""
    if (phase / "final").exists():
        return "finished"
    if any(phase.glob(".final.*")):
        return "final"
    if any(phase.glob("checkpoints/.step-*")):
        return "checkpoint"
    lines = (phase / "metrics.jsonl").read_text().splitlines()
    with suppress(ValueError):  # a line that is being written
        last = json.loads(lines[-1]) if lines else {"step": 0, "loss": 0.0}
        if "loss" in last and (last["step"] % EVERY == 0 or last["step"] == STEPS):
            return "evaluation"
    return "step"


def kill(process: subprocess.Popen[str], victim: int) -> bool:
    """Kill a process of a command, and wait until none of them is left; whether it was still there."""
    before = process.poll() is None
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    code, told = end(process)
    assert code in ((0, 1, -signal.SIGKILL) if before else (0,)), told
    assert code != 1 or "was killed (signal 9)" in told, told
    return code != 0


def train_until_killed(folder: Path, command: list[str], phase: str, aim: str, draw: random.Random) -> str | None:
    """Kill a training, or one of its ranks; what it was at, ``None`` if it was finished before."""
    place = folder / "runs/tiny" / phase
    metrics = place / "metrics.jsonl"
    before = metrics.stat().st_ino if metrics.exists() else None  # it is written anew
    process = start(*command, folder=folder)
    deadline = time.monotonic() + 120
    while (metrics.stat().st_ino if metrics.exists() else None) == before:
        assert process.poll() is None and time.monotonic() < deadline, end(process)
        time.sleep(0.005)
    time.sleep(draw.uniform(0.0, 1.5))
    victims = [process.pid, *(ranks_of(process).values() if process.poll() is None else ())]
    while aim != "any" and moment(place) not in (aim, "finished"):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(draw.uniform(0.0, 0.01))
    return moment(place) if kill(process, draw.choice(victims)) else None


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_a_training_killed_at_any_moment_goes_on_to_the_same_weights(tmp_path: Path, phase: str, layout: str) -> None:
    draw, trials, kinds = random.Random(f"{phase} {layout}"), 0, Counter[str]()
    many = [*LONGER, *LAYOUTS[layout]]
    whole = tmp_path / "whole"
    whole.mkdir()
    write_prompts(tmp_path)
    for verb in ("sft", "reward")[: 2 if phase == "reward" else 1]:
        code, told = end(start(verb, *many, folder=whole))
        assert code == 0, told
    while kinds.total() < KILLS or (MOMENTS - set(kinds) and trials < 3 * KILLS):
        trials += 1
        folder = tmp_path / str(trials)
        run = without(whole, folder, phase)
        for _ in range(3):
            missing = sorted(MOMENTS - set(kinds) - {"step"}) if kinds.total() >= KILLS else []
            aim = missing[0] if missing else AIMS[kinds.total() % 4]
            found = train_until_killed(folder, [phase, "--resume", *many], phase, aim, draw)
            kinds.update([found] if found else [])
            if found in (None, "finished") and not (run / phase / "checkpoints").exists():
                break  # everything was saved: nothing is left to go on with
        code, told = end(start(phase, "--resume", *many, folder=folder))
        assert code == 0, told
        assert "damaged" not in told
        same(whole / "runs/tiny", run, phase)
        shutil.rmtree(folder)
    print(f"\n{phase}, {layout}: {kinds.total()} kills in {trials} trainings, all the same weights: {dict(kinds)}")
    assert set(kinds) >= MOMENTS


def whole(folder: Path) -> bool:
    """Whether an exported folder is there; if it is, all of it is."""
    if not folder.exists():
        return False
    try:
        checksums.verify(folder)
    except ModelError as error:
        pytest.fail(str(error))
    return (folder / checksums.SUMS).exists()


def waits(draw: random.Random, target: Path) -> Iterator[Callable[[], bool]]:
    """Conditions to wait for before an export is killed: while it starts, while it writes, when it is there."""
    while True:
        until = time.monotonic() + draw.uniform(0.0, 8.0)
        yield lambda until=until: time.monotonic() > until  # type: ignore[misc]
        yield lambda: any(target.parent.glob(f".{target.name}.*"))
        before = target.stat().st_ino if target.exists() else None
        yield lambda before=before: target.exists() and target.stat().st_ino != before  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "form"), [("sft", "merged"), ("reward", "adapter"), ("reward", "deepspeed-chat")])
def test_an_export_killed_at_any_moment_is_whole_or_absent(
    project: Project, tmp_path: Path, phase: str, form: str
) -> None:
    shutil.copytree(project.folder / "runs", tmp_path / "runs")
    target, draw, kinds = tmp_path / "out", random.Random(form), Counter[str]()
    command = ["export", phase, "out", "--format", form, "--overwrite"]
    conditions = waits(draw, target)
    for _ in range(6):
        condition, existed = next(conditions), target.exists()
        process = start(*command, folder=tmp_path)
        while process.poll() is None and not condition():
            time.sleep(0.0005)
        if kill(process, process.pid):
            left = "writing" if any(tmp_path.glob(".out.*")) else "there" if whole(target) else "absent"
            kinds[left] += 1
        assert whole(target) or not existed or any(tmp_path.glob(".out.old-*"))
    code, told = end(start(*command, folder=tmp_path))
    assert code == 0, told
    assert whole(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]
    print(f"\nexport of {phase}, {form}: {kinds.total()} kills, the folder whole or absent: {dict(kinds)}")
    assert kinds["writing"] > 0
