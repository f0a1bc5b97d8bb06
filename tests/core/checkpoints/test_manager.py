"""A training that was stopped and resumed ends with the weights of one that was not stopped."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.checkpoints.stop import Stop
from rlhfcli.core.training import parts, phases
from rlhfcli.core.training.metrics_log import truncate
from rlhfcli.errors import Interrupted, OutputError
from rlhfcli.files.run_layout import list_checkpoints
from rlhfcli.progress import Silent
from tests.core import resume_worker
from tests.core.parallel.test_ranks import differences
from tests.core.resume_worker import After, settings
from tests.core.training.test_phases import _project

TRAIN = {"sft": phases.train_sft, "reward": phases.train_reward}
TIMES = {"seconds", "tokens_per_second", "memory_gb"}  # what two runs may differ in


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def stopped(project: parts.PhaseInputs, phase: str, steps: int, *, resume: bool = False) -> str:
    """Train for so many steps; what is said then."""
    with pytest.raises(Interrupted) as caught:
        TRAIN[phase](
            replace(project, session=TrainingSession(resume, stop=After(steps), resume_command="rlhf sft --resume"))
        )
    return str(caught.value)


def resumed(project: parts.PhaseInputs, phase: str) -> list[str]:
    """Train to the end; what is told on the way."""
    sink = Listening()
    TRAIN[phase](replace(project, session=TrainingSession(resume=True), sink=sink))
    return sink.notes


def weights(project: parts.PhaseInputs, phase: str) -> dict[str, torch.Tensor]:
    return load_file(project.folder / phase / "final" / "model.safetensors")


def lines(project: parts.PhaseInputs, phase: str) -> list[dict[str, float]]:
    found = map(json.loads, (project.folder / phase / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def same(one: parts.PhaseInputs, two: parts.PhaseInputs, phase: str) -> None:
    a, b = weights(one, phase), weights(two, phase)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert lines(one, phase) == lines(two, phase)


LORA = {"rank": 4, "dropout": 0.1}
ALWAYS = [(0, LORA), (1, None), (2, LORA), (3, LORA)]
SELDOM = [(0, None), (1, LORA), (2, None), (3, None)]


@pytest.mark.parametrize(
    ("stage", "lora"), [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in SELDOM)]
)
def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path, stage: int, lora: Any) -> None:
    whole, parted = (_project(tmp_path / name, **settings(stage, lora=lora)) for name in ("whole", "parted"))
    for phase in ("sft", "reward"):
        TRAIN[phase](whole)
        said = stopped(parted, phase, 4)
        assert said == "asked to stop after step 4 of 11, a checkpoint is written; rlhf sft --resume continues"
        assert not (parted.folder / phase / "final").exists()
        stopped(parted, phase, 3, resume=True)
        notes = resumed(parted, phase)
        assert f"resuming after step 7: {parted.folder / phase / 'checkpoints' / 'step-00000007'}" in notes
        same(whole, parted, phase)
        assert not (parted.folder / phase / "checkpoints").exists()


OFFLOADS = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")]


@pytest.mark.parametrize(
    ("stage", "offload"), [OFFLOADS[-1], *(pytest.param(*case, marks=pytest.mark.slow) for case in OFFLOADS[:-1])]
)
def test_an_offloaded_training_ends_with_the_same_weights(tmp_path: Path, stage: int, offload: str) -> None:
    whole, parted = (_project(tmp_path / name, **settings(stage, offload, lora=LORA)) for name in ("whole", "parted"))
    for phase in ("sft", "reward"):
        TRAIN[phase](whole)
        stopped(parted, phase, 4)
        resumed(parted, phase)
        same(whole, parted, phase)


def test_offload_may_change_on_the_way(tmp_path: Path) -> None:
    whole = _project(tmp_path / "whole", **settings(1))
    phases.train_sft(whole)
    stopped(_project(tmp_path / "other", **settings(3, "all")), "sft", 4)
    stopped(_project(tmp_path / "other", **settings(1)), "sft", 4, resume=True)
    other = _project(tmp_path / "other", **settings(2, "optimizer"))
    resumed(other, "sft")
    for a, b in zip(lines(whole, "sft"), lines(other, "sft"), strict=True):
        assert a == pytest.approx(b, abs=1e-3)


def test_dropout_continues_with_the_same_random_numbers(tmp_path: Path) -> None:
    model = {"dropout": 0.2}
    whole, parted = (_project(tmp_path / name, **settings(1)) for name in ("whole", "parted"))
    whole, parted = (
        replace(p, recipe=p.recipe.model_copy(update={"model": p.recipe.model.model_copy(update=model)}))
        for p in (whole, parted)
    )
    phases.train_sft(whole)
    stopped(parted, "sft", 5)
    resumed(parted, "sft")
    same(whole, parted, "sft")


def test_another_stage_continues_within_rounding(tmp_path: Path) -> None:
    whole = _project(tmp_path / "whole", **settings(1))
    phases.train_sft(whole)
    for before, after in ((1, 3), (3, 0), (0, 2)):
        folder = tmp_path / f"{before}-{after}"
        stopped(_project(folder, **settings(before)), "sft", 5)
        other = _project(folder, **settings(after))
        resumed(other, "sft")
        for a, b in zip(lines(whole, "sft"), lines(other, "sft"), strict=True):
            assert all(a[name] == pytest.approx(b[name], abs=1e-3) for name in a.keys() | b.keys())
        a, b = weights(whole, "sft"), weights(other, "sft")
        apart = {name: float((a[name] - b[name]).abs().max()) for name in a}
        # without meaning for attention: its gradient is rounding alone, which Adam makes steps of
        assert max(value for name, value in apart.items() if "k_proj.bias" not in name) < 1e-5, apart


def on_two_ranks(folder: Path, stage: int, steps: int, offload: str = "none", *best_by: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    alone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # tests train in this process, too
    environment = {key: value for key, value in os.environ.items() if key not in alone} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.core.resume_worker", str(folder), str(stage), str(steps), offload, *best_by],
        cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (3, 3), (1, 3), (3, 0)])
def test_another_number_of_ranks_continues_within_rounding(tmp_path: Path, before: int, after: int) -> None:
    end = 99
    resume_worker.train(tmp_path / "whole", before, end)
    resume_worker.train(tmp_path / "more", before, 5)
    on_two_ranks(tmp_path / "more", after, end)
    on_two_ranks(tmp_path / "fewer", before, 5)
    resume_worker.train(tmp_path / "fewer", after, end)
    for name in ("more", "fewer"):
        found = differences(tmp_path / "whole", tmp_path / name)
        print(before, after, name, {figure: f"{value:.1e}" for figure, value in sorted(found.items())})
        assert max(found.values()) <= 1e-3, (name, found)


@pytest.mark.slow
def test_two_ranks_continue_to_the_same_weights(tmp_path: Path) -> None:
    for stage, offload in (*((stage, "none") for stage in range(4)), *OFFLOADS[1:]):
        whole, parted = (tmp_path / f"{name}-{stage}-{offload}" for name in ("whole", "parted"))
        on_two_ranks(whole, stage, 99, offload)
        for steps in (4, 99):
            on_two_ranks(parted, stage, steps, offload)
        for phase in ("sft", "reward"):
            files = [folder / "run" / phase / "final" / "model.safetensors" for folder in (whole, parted)]
            assert files[0].read_bytes() == files[1].read_bytes(), (stage, offload, phase)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all but some bytes of a disk."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return filler


@pytest.mark.parametrize(
    ("leave", "checked", "said"),
    [
        (900_000, True, "a checkpoint needs "),
        (100_000, False, "cannot be written: "),
        (0, True, "cannot be written: No space left on device"),  # metrics, before any checkpoint
    ],
)
def test_a_full_disk(tmp_path: Path, small_disk: Path, leave: int, checked: bool, said: str, monkeypatch: Any) -> None:
    whole = _project(tmp_path / "whole", **settings(1))
    parted = replace(_project(small_disk, **settings(1)), sink=Listening())
    phases.train_sft(whole)
    stopped(parted, "sft", 4)
    kept = {file: file.read_bytes() for file in (parted.folder / "sft/checkpoints").rglob("*") if file.is_file()}
    filler = fill(small_disk, leave)
    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        if not checked:  # somebody else has taken the room meanwhile
            patch.setattr(checkpoint_files, "_check_space", lambda *_: None)
        TRAIN["sft"](replace(parted, session=TrainingSession(resume=True, stop=After(1))))
    assert caught.value.what.startswith(said), caught.value
    assert {file for file in (parted.folder / "sft/checkpoints").rglob("*") if file.is_file()} == set(kept)
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert sorted(file.name for file in (parted.folder / "sft").iterdir()) == ["checkpoints", "metrics.jsonl"]
    filler.unlink()
    resumed(parted, "sft")
    same(whole, parted, "sft")


@pytest.mark.parametrize(
    "text", ["{", "[1]", "3", '{"loss": 1}', '{"step": 3, "loss": "x"}', '{"step": true}', "[" * 100_000, "\udcff"]
)
def test_metrics_end_where_something_else_stands(tmp_path: Path, text: str) -> None:
    file, lines = tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1}]
    rows = [*(json.dumps(line) for line in lines), text, json.dumps({"step": 4})]
    file.write_bytes("\n".join(rows).encode(errors="surrogateescape"))
    assert truncate(file, 9) == lines


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    whole, parted = (_project(tmp_path / name, **settings(1)) for name in ("whole", "parted"))
    phases.train_sft(whole)
    stopped(parted, "sft", 7)
    metrics = parted.folder / "sft" / "metrics.jsonl"
    with metrics.open("a") as file:  # what a kill leaves behind
        file.write('{"step": 8, "eval_loss": 1.0}\n{"step": 9, "lo')
    resumed(parted, "sft")
    assert lines(parted, "sft") == lines(whole, "sft")
    steps = [line["step"] for line in lines(parted, "sft") if "loss" in line]
    assert steps == [3, 6, 9, 11]


def test_lost_metrics_are_reported_and_do_not_end_the_run(tmp_path: Path) -> None:
    project = _project(tmp_path, **settings(1))
    stopped(project, "sft", 7)
    (project.folder / "sft" / "metrics.jsonl").unlink()
    notes = resumed(project, "sft")
    assert any(note.endswith("metrics.jsonl has lost 4 of its 4 lines") for note in notes)
    assert [line["step"] for line in lines(project, "sft")] == [7, 8, 9, 11, 11]


def test_checkpoints_are_written_at_intervals_and_old_ones_go(tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[list[int]] = []
    save = checkpoint_files.prune

    def prune(folder: Path, keep: int, best: int | None) -> None:
        save(folder, keep, best)
        kept.append([int(entry.name[-2:]) for entry in list_checkpoints(folder)])

    monkeypatch.setattr(checkpoint_files, "prune", prune)
    phases.train_sft(_project(tmp_path, checkpoint={"every": 3, "keep": 2}, **settings(1)))
    assert kept == [[3], [3, 6], [6, 9], [9, 11]]  # the last step, too


def test_a_short_training_writes_none(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoint_files, "save", lambda *_: pytest.fail("a checkpoint is written"))
    phases.train_sft(_project(tmp_path, **settings(1)))
    phases.train_sft(_project(tmp_path, checkpoint={"every": 11}, **settings(1, max_steps=10)))


def test_a_training_that_broke_off_after_its_last_step_only_ends(tmp_path: Path, monkeypatch: Any) -> None:
    whole, parted = (_project(tmp_path / n, checkpoint={"every": 4}, **settings(1)) for n in ("whole", "parted"))
    phases.train_sft(whole)
    with monkeypatch.context() as patch:
        patch.setattr(phases, "save_model", lambda *_: (_ for _ in ()).throw(OutputError("no space left")))
        with pytest.raises(OutputError):
            phases.train_sft(parted)
    assert "resuming after step 11: " in "\n".join(resumed(parted, "sft"))
    same(whole, parted, "sft")


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path) -> None:
    whole, parted = (_project(tmp_path / n, checkpoint={"every": 3}, **settings(1)) for n in ("whole", "parted"))
    phases.train_sft(whole)
    stopped(parted, "sft", 8)
    file = parted.folder / "sft/checkpoints/step-00000008/state-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    notes = "\n".join(resumed(parted, "sft"))
    assert "step-00000008 is damaged and is skipped: state-00001.safetensors was changed" in notes
    assert "resuming after step 6: " in notes
    same(whole, parted, "sft")


def test_a_damaged_one_does_not_outlive_a_newer_one(tmp_path: Path) -> None:
    project = _project(tmp_path, checkpoint={"every": 3, "keep": 1}, **settings(1))
    stopped(project, "sft", 8)
    (project.folder / "sft/checkpoints/step-00000008/manifest.txt").unlink()
    stopped(project, "sft", 2, resume=True)
    assert [entry.name for entry in list_checkpoints(project.folder / "sft/checkpoints")] == ["step-00000002"]


def test_without_a_checkpoint_it_begins_and_says_so(tmp_path: Path) -> None:
    project = _project(tmp_path, **settings(1))
    folder = project.folder / "sft" / "checkpoints"
    assert f"no checkpoint in {folder}: training begins at its first step" in resumed(project, "sft")
    assert lines(project, "sft")[-1]["step"] == 11


def test_without_resume_old_checkpoints_go(tmp_path: Path) -> None:
    project = _project(tmp_path, **settings(1))
    stopped(project, "sft", 8)
    stopped(project, "sft", 2)
    assert [entry.name for entry in list_checkpoints(project.folder / "sft/checkpoints")] == ["step-00000002"]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"phase": {"learning_rate": 2e-3}}, "sft.learning_rate: 0.01 (checkpoint) 0.002 (now)"),
        ({"phase": {"lora": {"rank": 2}}}, "sft.lora: null (checkpoint) nothing (now)"),
        ({"phase": {"lora": {"rank": 2}}}, "sft.lora.rank: nothing (checkpoint) 2 (now)"),
        ({"seed": 3}, "seed: 1234 (checkpoint) 3 (now)"),
        ({"model": {"dropout": 0.5}}, "model.dropout: 0.0 (checkpoint) 0.5 (now)"),
    ],
)
def test_other_settings_are_refused_and_shown(tmp_path: Path, changes: dict[str, Any], shown: str) -> None:
    project = _project(tmp_path)
    stopped(project, "sft", 2)
    with pytest.raises(OutputError, match="the checkpoint was trained with other settings") as caught:
        resumed(_project(tmp_path, **changes), "sft")
    assert shown in caught.value.what.splitlines()
    resumed(project, "sft")


def test_other_data_is_refused(tmp_path: Path) -> None:
    project = _project(tmp_path)
    with pytest.raises(Interrupted):
        phases.train_sft(replace(project, session=TrainingSession(fingerprint="a", stop=After(2))))
    with pytest.raises(OutputError, match=r'prepared data: "a" \(checkpoint\) "b" \(now\)'):
        phases.train_sft(replace(project, session=TrainingSession(resume=True, fingerprint="b")))


def test_harmless_settings_may_change(tmp_path: Path) -> None:
    stopped(_project(tmp_path), "sft", 2)
    changes: dict[str, Any] = {"eval": {"every": 3}, "logging": {"every": 1}, "checkpoint": {"keep": 1}}
    model = {"gradient_checkpointing": True}
    resumed(_project(tmp_path, phase={"micro_batch_tokens": 64}, model=model, **changes), "sft")


def test_the_reward_model_depends_on_how_its_base_was_trained(tmp_path: Path) -> None:
    project = _project(tmp_path, reward={"max_steps": 4})
    phases.train_sft(project)
    stopped(project, "reward", 2)
    with pytest.raises(OutputError, match=r"sft.weight_decay: 0.0 \(checkpoint\) 0.1 \(now\)"):
        resumed(_project(tmp_path, phase={"weight_decay": 0.1}, reward={"weight_decay": 0.0, "max_steps": 4}), "reward")


def test_time_is_over(tmp_path: Path) -> None:
    project = _project(tmp_path)
    with pytest.raises(Interrupted, match="the time is over after step 1 of 10, a checkpoint is written"):
        phases.train_sft(replace(project, session=TrainingSession(stop=Stop(0.0))))
    assert Stop(60).reason is None is Stop().reason


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_the_second_what_it_was(kind: signal.Signals) -> None:
    stop, before = Stop(), signal.signal(kind, signal.default_int_handler)
    said: queue.Queue[str] = queue.Queue()
    try:
        with pytest.raises(KeyboardInterrupt), stop.handling_signals(said.put):
            os.kill(os.getpid(), kind)
            assert stop.reason == "asked to stop"
            os.kill(os.getpid(), kind)
            signal.pause()
        assert signal.getsignal(kind) is signal.default_int_handler
        assert said.get(timeout=10).startswith("stopping after this step, with a checkpoint")
    finally:
        signal.signal(kind, before)


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_what_nohup_ignores_stays_ignored(ranks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhfcli.core.checkpoints.stop.world_size", lambda: int(ranks))
    stop, before = Stop(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.handling_signals(print):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wanted and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stop.handling_signals(print):
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wanted
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_listens_to_nothing() -> None:
    handlers = [signal.getsignal(signal.SIGINT)]

    def listen() -> None:
        with Stop().handling_signals(print):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers[0] is handlers[1]
