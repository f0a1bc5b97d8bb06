"""``checkpoint.best_by``: the weights of the best step are saved, and its figures are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.best import BestCriterion, best_by
from rlhfcli.core.tasks.reward import RewardTask
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.core.training import parts, phases
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.errors import OutputError
from rlhfcli.files import run_layout
from rlhfcli.recipe.schema import CheckpointSection
from tests.core import resume_worker
from tests.core.checkpoints.test_manager import LORA, TRAIN, Listening, lines, on_two_ranks, resumed, same, stopped
from tests.core.resume_worker import settings
from tests.core.training.test_phases import Data, _project

FIGURE = {"sft": "eval_loss", "reward": "eval_nll"}


class Contrary(Data):
    """What is learnt makes the validation part worse: its dialogues end otherwise, its worse answers are the better."""

    def dialogues(self, part: str) -> Sequence[EncodedDialogue]:
        found = list(super().dialogues(part))
        if part == "train":
            return found
        return [EncodedDialogue([*each.ids[:-3], 3, 3, 3], each.spans) for each in found]

    def pairs(self, part: str) -> Sequence[EncodedPreference]:
        found = super().pairs(part)
        if part == "train":
            return found
        return [EncodedPreference.pair(pair.prompt, *reversed(pair.answers)) for pair in found]


def contrary(folder: Path, by: str = "loss", **changes: Any) -> parts.PhaseInputs:
    """Eleven steps, evaluated after 4 and 8 and in the end."""
    stage, phase = changes.pop("stage", 1), {"learning_rate": 5e-3} | changes.pop("phase", {})
    plan = {"best_by": by} | changes.pop("checkpoint", {})
    return _project(folder, data=Contrary(), checkpoint=plan, **settings(stage, **phase), **changes)


def best_line(project: parts.PhaseInputs, phase: str) -> dict[str, float]:
    found = [line for line in lines(project, phase) if "eval_loss" in line and line["step"] > 0]
    return min(found, key=lambda line: line[FIGURE[phase]])


def test_better_is_strictly_better() -> None:
    loss, accuracy = BestCriterion("eval_loss", False), BestCriterion("eval_accuracy", True)
    assert loss.better({"eval_loss": 1.0}, {"eval_loss": 1.5}) and not loss.better(
        {"eval_loss": 1.5}, {"eval_loss": 1.5}
    )
    assert accuracy.better({"eval_accuracy": 0.6}, {"eval_accuracy": 0.5})
    assert not accuracy.better({"eval_accuracy": 0.5}, {"eval_accuracy": 0.5})
    assert loss.better({"eval_loss": 9.0}, {}) and loss.better({"eval_loss": 9.0}, {"eval_loss": math.nan})
    assert not loss.better({"eval_loss": math.nan}, {}) and not loss.better({}, {})


def test_evaluations_in_a_row_without_a_better_one() -> None:
    def since(*losses: float) -> int:
        lines = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)]
        return BestCriterion("eval_loss", False).evaluations_since([*lines, {"step": 99, "loss": 0.0}])

    assert since() == since(1.0) == 0  # the one before training is no rival
    assert since(1.0, 2.0) == 0 and since(1.0, 2.0, 3.0) == 1 and since(9, 2.0, 2.0, math.nan) == 2
    assert since(9, 2.0, 3.0, 1.0) == 0 and since(9, 2.0, 3.0, 1.0, 1.5, 1.5) == 2


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_patience_ends_a_training_and_survives_a_resume(tmp_path: Path, phase: str) -> None:
    """Evaluated after steps 4, the best, and 8: there it ends, of 11."""
    plan = {"patience": 1}
    more = {"reward": {"init_from": "base"}}
    full, whole = contrary(tmp_path / "full", **more), contrary(tmp_path / "whole", checkpoint=plan, **more)
    TRAIN[phase](full)
    sink = Listening()
    result = TRAIN[phase](replace(whole, sink=sink))
    name = FIGURE[phase].removeprefix("eval_")
    assert result.steps == 8 and result.best == {"step": 4, "by": f"lowest {name} on the validation part"}
    assert f"the last evaluation did not have the lowest {name}" in "\n".join(sink.notes)
    assert "the training ends after step 8 of 11 (checkpoint.patience)" in "\n".join(sink.notes)
    assert [line["step"] for line in lines(whole, phase) if "eval_loss" in line] == [0, 4, 8]
    assert not (whole.folder / phase / "checkpoints").exists()
    for step in (6, 8):
        parted = contrary(tmp_path / f"parted-{step}", checkpoint=plan, **more)
        stopped(parted, phase, step)
        assert "the training ends after step 8 of 11" in "\n".join(resumed(parted, phase))
        same(whole, parted, phase)
    final = [load_file(project.folder / phase / "final" / "model.safetensors") for project in (full, whole)]
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])


def test_each_phase_has_its_accuracy() -> None:
    plan = CheckpointSection(best_by="accuracy")
    assert best_by(CheckpointSection(), SftTask) is None  # type: ignore[arg-type]
    found = [best_by(plan, task).description for task in (SftTask, RewardTask)]  # type: ignore[arg-type, union-attr]
    assert found == ["highest token accuracy on the validation part", "highest accuracy on the validation part"]
    by_loss = CheckpointSection(best_by="loss")
    assert best_by(by_loss, SftTask).description == "lowest loss on the validation part"  # type: ignore
    assert best_by(by_loss, RewardTask).description == "lowest nll on the validation part"  # type: ignore


@pytest.mark.parametrize(("stage", "lora"), [(0, LORA), (1, None), (2, LORA), (3, None)])
def test_the_best_step_is_what_is_saved(tmp_path: Path, stage: int, lora: Any) -> None:
    sink = Listening()
    project = replace(contrary(tmp_path / "best", stage=stage, phase={"lora": lora}), sink=sink)
    for phase in ("sft", "reward"):
        result = TRAIN[phase](project)
        line, last = best_line(project, phase), lines(project, phase)[-1]
        step = int(line["step"])
        figure, name = FIGURE[phase], FIGURE[phase].removeprefix("eval_")
        assert step == 4 and last["step"] == 11 and last[figure] > line[figure]
        assert result.steps == 11 and result.best == {"step": 4, "by": f"lowest {name} on the validation part"}
        assert {"step": step} | result.evaluation == line
        assert (
            f"the weights of step 4 of 11 are used: they have the lowest {name} on the validation part, "
            f"{line[figure]:.4f} (after the last step {last[figure]:.4f})"
        ) in sink.notes
        card = (project.folder / phase / "final" / "README.md").read_text()
        assert "11 steps" in card and f"The weights are those after step 4, with the lowest {name}" in card
        assert not (project.folder / phase / "checkpoints").exists()
        _saved_after(project, phase, step)


def _saved_after(project: parts.PhaseInputs, phase: str, step: int) -> None:
    """Hold what was saved against a checkpoint of the same training, stopped there."""
    other = replace(project, folder=project.folder.with_name("stopped"))
    (other.folder / "sft").mkdir(parents=True, exist_ok=True)
    if phase == "reward":  # starts from the same model
        (other.folder / "sft" / "final").symlink_to(project.folder / "sft" / "final")
    stopped(other, phase, step)
    kept = checkpoint_files.Checkpoint(run_layout.checkpoint(other.folder / phase / "checkpoints", step))
    trained = {
        key.removeprefix("weight:model."): kept.read(key) for key in kept.manifest["tensors"] if "weight:" in key
    }
    final = project.folder / phase / "final"
    if getattr(project.recipe, phase).lora is None:
        saved = load_file(final / "model.safetensors")
        assert all(torch.equal(saved[name], trained[name]) for name in trained)
    else:  # where the names are PEFT's
        saved = load_file(final / "adapter" / "adapter_model.safetensors")
        assert _sums(saved) == _sums(trained)


def _sums(tensors: dict[str, torch.Tensor]) -> list[float]:
    return sorted(float(tensor.double().sum()) for tensor in tensors.values())


def test_the_last_step_competes(tmp_path: Path) -> None:
    sink = Listening()
    plain = _project(tmp_path / "plain", **settings(1))
    best = replace(_project(tmp_path / "best", checkpoint={"best_by": "loss"}, **settings(1)), sink=sink)
    phases.train_sft(plain)
    result = phases.train_sft(best)
    assert result.best == {"step": 11, "by": "lowest loss on the validation part"}
    loss = result.evaluation["eval_loss"]
    assert (
        f"the last step's weights are used: they have the lowest loss on the validation part, {loss:.4f}" in sink.notes
    )
    same(plain, best, "sft")


def test_the_best_one_is_kept_besides_the_newest(tmp_path: Path, monkeypatch: Any) -> None:
    kept: list[list[int]] = []
    prune = checkpoint_files.prune

    def watched(folder: Path, keep: int, best: int | None) -> None:
        prune(folder, keep, best)
        kept.append([run_layout.step_of(entry) for entry in run_layout.list_checkpoints(folder)])

    monkeypatch.setattr(checkpoint_files, "prune", watched)
    phases.train_sft(contrary(tmp_path, checkpoint={"every": 3, "keep": 1}))
    assert kept == [[3], [4], [4, 6], [4, 9], [4, 11]]


@pytest.mark.parametrize("by", ["loss", "accuracy"])
@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_stopped_after_any_step_it_ends_with_the_same_weights(tmp_path: Path, phase: str, by: str) -> None:
    whole = contrary(tmp_path / "whole", by, reward={"init_from": "base"})
    result = TRAIN[phase](whole)
    for step in (3, 4, 5, 8, 9):
        parted = contrary(tmp_path / str(step), by, reward={"init_from": "base"})
        stopped(parted, phase, step)
        stopped(parted, phase, 1, resume=True)
        notes = resumed(parted, phase)
        same(whole, parted, phase)
        assert any(f"the weights of step {result.best['step']} of 11 are used" in note for note in notes)


def test_killed_in_the_middle_of_the_best_one(tmp_path: Path, monkeypatch: Any) -> None:
    whole, parted = (contrary(tmp_path / name, checkpoint={"every": 3}) for name in ("whole", "parted"))
    phases.train_sft(whole)
    save = checkpoint_files.save

    def broken(*arguments: Any) -> Path:
        if arguments[3].step == 4:
            raise OutputError("killed")
        return save(*arguments)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="killed"):
        patch.setattr(checkpoint_files, "save", broken)
        phases.train_sft(parted)
    assert "resuming after step 3: " in "\n".join(resumed(parted, "sft"))
    same(whole, parted, "sft")


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_best_one_is_reported_and_the_last_step_is_saved(tmp_path: Path, damage: str) -> None:
    plain, project = contrary(tmp_path / "plain", checkpoint={"best_by": None}), contrary(tmp_path / "best")
    phases.train_sft(plain)
    stopped(project, "sft", 6)
    folder = project.folder / "sft" / "checkpoints" / "step-00000004"
    file = folder / "state-00001.safetensors"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    else:
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
    notes = "\n".join(resumed(project, "sft"))
    assert f"the best checkpoint {folder} is damaged, the last step's weights are used: " in notes
    same(plain, project, "sft")


def test_a_damaged_newest_one_leaves_the_best_one_to_resume_from(tmp_path: Path) -> None:
    whole, parted = (contrary(tmp_path / name, checkpoint={"keep": 1}) for name in ("whole", "parted"))
    phases.train_sft(whole)
    stopped(parted, "sft", 6)
    (parted.folder / "sft/checkpoints/step-00000006/manifest.txt").write_text("torn")
    notes = "\n".join(resumed(parted, "sft"))
    assert "step-00000006 is damaged and is skipped" in notes and "resuming after step 4: " in notes
    same(whole, parted, "sft")


def test_who_no_longer_asks_for_the_best_gets_the_last(tmp_path: Path) -> None:
    plain, project = contrary(tmp_path / "plain", checkpoint={"best_by": None}), contrary(tmp_path / "best")
    phases.train_sft(plain)
    stopped(project, "sft", 6)
    resumed(contrary(tmp_path / "best", checkpoint={"best_by": None}), "sft")
    same(plain, project, "sft")


def test_who_asks_for_it_later_has_the_evaluations_from_there(tmp_path: Path) -> None:
    plain, project = contrary(tmp_path, checkpoint={"best_by": None}), contrary(tmp_path)
    stopped(plain, "sft", 4)  # just evaluated
    notes = "\n".join(resumed(project, "sft"))
    assert "the weights of step 4 of 11 are used" in notes


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_take_the_best_step_of_one(tmp_path: Path, stage: int) -> None:
    one, two, last = tmp_path / "one", tmp_path / "two", tmp_path / "last"
    resume_worker.train(one, stage, 99, best_by="accuracy")
    resume_worker.train(last, stage, 99)
    for steps in (6, 99):
        on_two_ranks(two, stage, steps, "none", "accuracy")
    file = Path("run/reward/final/model.safetensors")
    a, b, c = (load_file(folder / file)["score.weight"] for folder in (one, two, last))
    assert "The weights are those after step 4" in (one / file).with_name("README.md").read_text()
    assert float((a - b).abs().max()) < 1e-3 < float((a - c).abs().max())
