"""What a run folder lets a command do, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.errors import OutputError
from rlhfcli.recipe.loader import dump
from rlhfcli.recipe.run_folder import RunFolder
from rlhfcli.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(**changes: Any) -> RunFolder:
    sections = {
        "output_dir": "runs/x",
        "model": {"name": "builtin:tiny"},
        "data": {"sources": [{"path": "builtin:tiny"}]},
    }
    return RunFolder(Recipe.model_validate(sections | changes), dump)


def finish(*parts: str) -> None:
    for part in parts:
        Path("runs/x", part, "final").mkdir(parents=True, exist_ok=True)


def test_a_new_folder_gets_the_recipe_and_the_record():
    folder().open("data")
    assert sorted(file.name for file in Path("runs/x").iterdir()) == ["recipe.yaml", "run.json"]


def test_a_folder_with_something_else_is_refused():
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        folder().open("sft")
    assert Path("runs/x/thesis.txt").read_text() == "mine"


def test_a_recipe_that_somebody_wrote_by_hand_is_not_replaced():
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/recipe.yaml").write_text("# my notes\noutput_dir: runs/x\n")
    with pytest.raises(OutputError, match="holds something else"):
        folder().open("sft")
    assert Path("runs/x/recipe.yaml").read_text().startswith("# my notes")


@pytest.mark.parametrize("text", ["{", "", "[1]", "\0"])
def test_a_run_whose_recipe_cannot_be_read(text):
    folder().open("sft")
    finish("sft")
    Path("runs/x/recipe.yaml").write_text(text)
    with pytest.raises(OutputError, match="belongs to another recipe"):
        folder().open("reward")
    folder().open("reward", overwrite=True)


def test_training_again_needs_overwrite():
    folder().open("sft")
    finish("sft")
    with pytest.raises(OutputError, match="already done"):
        folder().open("sft")
    folder().open("sft", overwrite=True)


@pytest.mark.parametrize("part", ["reward", "data", "eval"])
def test_another_recipe_is_refused_once_something_is_made(part):
    folder().open("sft")
    folder(seed=7).open("sft")  # nothing is made yet
    finish("sft")
    before = Path("runs/x/recipe.yaml").read_text()
    with pytest.raises(OutputError, match="another recipe: seed differs from what sft was made with"):
        folder(seed=8).open(part)
    assert Path("runs/x/recipe.yaml").read_text() == before


def test_what_only_the_evaluation_reads_may_change():
    folder().open("sft")
    finish("sft", "reward")
    folder(eval={"samples": 3}).open("eval")


def made(run: RunFolder, part: str) -> None:
    finish(part)
    run.note({part: {"steps": 1}})


def test_what_another_recipe_made_is_known_after_an_overwrite_that_did_not_end():
    run = folder()
    run.open("sft")
    made(run, "sft")
    again = folder(seed=7)
    again.open("data", overwrite=True)  # rlhf run --overwrite, killed before its SFT ended
    with pytest.raises(OutputError, match="seed differs from what sft was made with"):
        again.open("reward")
    again.open("sft", overwrite=True)
    made_again = json.loads(Path("runs/x/run.json").read_text())["parts"]["sft"]
    assert made_again["recipe"]["seed"] == 1234


def test_a_reward_model_of_an_earlier_sft_is_noticed_but_can_be_measured():
    run = folder()
    run.open("sft")
    made(run, "sft")
    made(run, "reward")
    again = folder(sft={"epochs": 2.0})
    again.open("sft", overwrite=True)
    again.note({"sft": {"steps": 2}})
    with pytest.raises(OutputError, match="sft differs from what reward was made with"):
        again.open("data")
    again.open("eval")
    again.open("reward", overwrite=True)
    again.note({"reward": {"steps": 2}})
    again.open("data")


def test_a_start_that_failed_leaves_no_run_behind():
    run = folder()
    run.open("data")
    with pytest.raises(KeyboardInterrupt), run.starting():
        raise KeyboardInterrupt
    assert not Path("runs/x").exists()


def test_a_failure_takes_nothing_else_away():
    run = folder()
    run.open("data")
    Path("runs/x/data").mkdir()
    with pytest.raises(ZeroDivisionError), run.starting():
        raise ZeroDivisionError
    assert Path("runs/x/recipe.yaml").is_file()
    again = folder()
    Path("runs/x/data").rmdir()
    again.open("data")  # the run was there before this command
    with pytest.raises(ZeroDivisionError), again.starting():
        raise ZeroDivisionError
    assert json.loads(Path("runs/x/run.json").read_text())["commands"]


def test_a_start_that_failed_takes_no_folder_of_the_user_away():
    Path("runs").mkdir()
    run = folder()
    with pytest.raises(KeyboardInterrupt), run.starting():
        run.open("data")
        raise KeyboardInterrupt
    assert list(Path("runs").iterdir()) == []


def test_the_record_holds_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["rlhf", "sft", "--set", "logging.wandb_key=abc123"])
    folder().open("sft")
    assert "abc123" not in Path("runs/x/run.json").read_text() and "wandb_key" in Path("runs/x/run.json").read_text()
