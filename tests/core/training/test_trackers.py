"""TensorBoard and Weights & Biases get every line of ``metrics.jsonl`` once, also over several sessions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.training import phases, trackers
from rlhfcli.core.training.parts import PhaseInputs
from rlhfcli.errors import Interrupted, UserError
from rlhfcli.recipe.schema import Recipe
from tests.core.resume_worker import After, settings
from tests.core.training.test_phases import _project

SESSIONS = (4, 5, 99)  # steps of each


def lines(project: PhaseInputs) -> list[dict[str, float]]:
    return [json.loads(line) for line in (project.folder / "sft/metrics.jsonl").read_text().splitlines()]


def in_sessions(folder: Path, *to: str) -> PhaseInputs:
    changes = settings(0) | {"logging": {"every": 2, "to": list(to)}, "checkpoint": {"every": 3}}
    project = _project(folder, **changes)
    for number, steps in enumerate(SESSIONS):
        try:
            phases.train_sft(replace(project, session=TrainingSession(resume=number > 0, stop=After(steps))))
        except Interrupted:
            continue
    assert (project.folder / "sft/final").exists()
    return project


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_not_installed_is_reported_before_anything_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    recipe: Any = SimpleNamespace(logging=SimpleNamespace(to=["jsonl", name]))
    with pytest.raises(UserError) as told:
        trackers.check(recipe.logging)
    title = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}[name]
    assert told.value.what == f"{title} is asked for and not installed"
    assert told.value.where == f"logging.to: {name}"
    assert told.value.hint == f"pip install {name}, or take it out of logging.to; metrics.jsonl is always written."


def test_without_a_request_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: pytest.fail("looked"))
    section: Any = {"output_dir": "x", "model": {"name": "x"}, "data": {"sources": [{"path": "x"}]}}
    trackers.check(Recipe.model_validate(section).logging)


def test_tensorboard_has_every_line_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    project = in_sessions(tmp_path, "tensorboard")
    events = EventAccumulator(str(project.folder / "sft/tensorboard"), size_guidance={"scalars": 0}).Reload()
    written = lines(project)
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate"), ("eval/loss", "eval_loss")):
        expected = [(line["step"], line[key]) for line in written if key in line]
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    times = [event.wall_time for event in events.Scalars("train/loss")]
    assert times == sorted(times)


class FakeRun:
    """Keeps what it is sent, as the server would."""

    def __init__(self, sent: dict[int, dict[str, float]], offline: bool) -> None:
        self.sent, self.offline = sent, offline

    @property
    def step(self) -> int:
        return max(self.sent, default=-1) + 1

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, line: dict[str, float], step: int, commit: bool) -> None:
        assert step not in self.sent  # the real one drops what comes twice, with a warning
        self.sent[step] = dict(line)

    def finish(self, exit_code: int) -> None:
        pass


@pytest.mark.parametrize("offline", [False, True])
def test_wandb_continues_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    """Its part is played here; the next test has the real one, where that is installed."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    wishes: list[dict[str, Any]] = []

    def init(**wish: Any) -> FakeRun:
        wishes.append(wish)
        return FakeRun(runs.setdefault(wish["id"], {}), offline)

    fake = SimpleNamespace(init=init, Error=RuntimeError, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_API_KEY", "a secret")
    project = in_sessions(tmp_path, "wandb")
    assert len(runs) == 1 and len(wishes) == len(SESSIONS)
    assert all(wish["resume"] == "allow" for wish in wishes)
    (run,) = runs.values()
    sent = [run[number] for number in sorted(run)]
    written = lines(project)
    assert [line["step"] for line in sent] == [line["step"] for line in written]
    assert [line.get("loss") for line in sent] == [line.get("loss") for line in written]
    assert "a secret" not in (project.folder / "sft/wandb.json").read_text()


def test_the_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    project = in_sessions(tmp_path, "wandb")
    state = json.loads((project.folder / "sft/wandb.json").read_text())
    assert state["lines"] == len(lines(project))
    # a folder for each session, named by its second and the run
    folders = [path.name for path in (project.folder / "sft/wandb").glob("offline-run-*")]
    assert folders and all(state["id"] in name for name in folders)
