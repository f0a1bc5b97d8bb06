"""The settings that a stopped phase depends on, and when a command can resume it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.errors import OutputError
from rlhfcli.files.run_layout import list_checkpoints, step_of
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.resumable import needs_data, refuse_changes, refuse_new_data, refuse_other_settings, settings
from rlhfcli.runs.run_folder import RunFolder
from rlhfcli.runs.settings import differences


def recipe(folder: Path, **changes: Any) -> Recipe:
    base = {"output_dir": str(folder), "model": {"name": "m"}, "data": {"sources": [{"path": "a.jsonl"}]}}
    return Recipe.model_validate(base | changes)


def run(folder: Path, **changes: Any) -> RunFolder:
    return RunFolder(recipe(folder, **changes))


def leave(folder: Path, phase: str, step: int, **changes: Any) -> Path:
    """A checkpoint, as far as this room looks into one."""
    place = folder / phase / "checkpoints" / f"step-{step:08}"
    place.mkdir(parents=True)
    stored = {"settings": settings(recipe(folder, **changes), phase) | {"prepared data": "f"}}
    (place / "manifest.txt").write_text(f"hash\n{json.dumps(stored)}", encoding="utf-8")
    return place


def test_every_key_of_the_recipe_is_decided(tmp_path):
    """A new key must be put on one side or the other."""
    sections = {key.split(".")[0] for phase in ("sft", "reward") for key in settings(recipe(tmp_path), phase)}
    harmless = {"output_dir", "eval", "chat", "deepspeed", "checkpoint", "logging"}
    assert sections | harmless == set(Recipe.model_fields) and not sections & harmless


@pytest.mark.parametrize(
    ("changes", "sft", "reward"),
    [
        ({"seed": 3}, ["seed"], ["seed"]),
        ({"sft": {"epochs": 2.0}}, ["sft.epochs"], ["sft.epochs"]),
        ({"sft": {"lora": {"rank": 2}}}, ["sft.lora", "sft.lora.rank"], ["sft.lora", "sft.lora.rank"]),
        ({"sft": {"betas": [0.8, 0.9]}}, ["sft.betas"], ["sft.betas"]),
        ({"reward": {"loss": {"margin": True}}}, [], ["reward.loss.margin"]),
        ({"data": {"sources": [{"path": "b.jsonl"}]}}, ["data.sources.0.path"], ["data.sources.0.path"]),
        ({"model": {"name": "m", "dropout": 0.1}}, ["model.dropout"], ["model.dropout"]),
        ({"model": {"name": "m", "gradient_checkpointing": True}}, [], []),
        ({"sft": {"micro_batch_tokens": 16}, "reward": {"micro_batch_tokens": 16}}, [], []),
        ({"deepspeed": {"zero_stage": 3}, "logging": {"every": 1}, "eval": {"every": 7}}, [], []),
        ({"checkpoint": {"every": None, "keep": 9}, "chat": {"top_k": 3}, "output_dir": "elsewhere"}, [], []),
    ],
)
def test_settings_that_a_training_depends_on(tmp_path, changes, sft, reward):
    for phase, expected in (("sft", sft), ("reward", reward)):
        before, now = settings(recipe(tmp_path), phase), settings(recipe(tmp_path, **changes), phase)
        differ = [key for key in before.keys() | now.keys() if before.get(key, "-") != now.get(key, "-")]
        shown = [key for key in sorted(differ) if not key.startswith("sft.lora.") or key == "sft.lora.rank"]
        assert shown == expected


def test_a_reward_model_of_the_base_does_not_depend_on_phase_1(tmp_path):
    keys = settings(recipe(tmp_path, reward={"init_from": "base"}), "reward")
    assert not any(key.startswith("sft.") for key in keys)


def test_every_difference_is_shown(tmp_path):
    before, now = {"a.b": 0.001, "c": "x", "e": None}, {"a.b": 0.002, "d": [1, 2], "e": None}
    with pytest.raises(OutputError) as caught:
        refuse_changes(before, now, tmp_path)
    assert caught.value.what.splitlines() == [
        "the checkpoint was trained with other settings",
        "a.b: 0.001 (checkpoint) 0.002 (now)",
        'c: "x" (checkpoint) nothing (now)',
        "d: nothing (checkpoint) [1, 2] (now)",
    ]
    refuse_changes(now, now, tmp_path)


def test_a_key_that_an_older_version_did_not_know_has_its_default(tmp_path):
    now = settings(recipe(tmp_path, sft={"lora": {"rank": 2}}), "sft")
    for key in now:
        older = {name: value for name, value in now.items() if name != key}
        required = key in ("model.name", "data.sources.0.path", "sft.lora.rank")  # the last is not at its default
        assert differences(older, now, "checkpoint") == (
            [f"{key}: nothing (checkpoint) {json.dumps(now[key])} (now)"] if required else []
        )
    older = {name: value for name, value in now.items() if name != "sft.loss_on"}
    changed = settings(recipe(tmp_path, sft={"lora": {"rank": 2}, "loss_on": "all"}), "sft")
    assert differences(older, changed, "checkpoint") == ['sft.loss_on: nothing (checkpoint) "all" (now)']
    assert differences({"mine.x": 1}, {}, "checkpoint") == ["mine.x: 1 (checkpoint) nothing (now)"]
    assert differences({}, {"mine": 1, "seed.x": 2}, "checkpoint") == [
        "mine: nothing (checkpoint) 1 (now)",
        "seed.x: nothing (checkpoint) 2 (now)",
    ]


def test_data_that_a_stopped_phase_needs_is_not_replaced(tmp_path):
    refuse_new_data(tmp_path, "sft", "other", "was made of other inputs")  # nothing was stopped
    left = leave(tmp_path, "sft", 1200)
    refuse_new_data(tmp_path, "sft", "f", "cannot be used")  # it is made anew as it was
    with pytest.raises(OutputError) as caught:
        refuse_new_data(tmp_path, "sft", "other", "was made of other inputs")
    assert caught.value.what == (
        "the sft phase was stopped after step 1,200, and can only resume with the data that it began with; "
        "that was made of other inputs"
    )
    assert caught.value.where == str(left)


def test_a_stopped_phase_needs_the_data_that_it_began_with(tmp_path):
    assert not needs_data(tmp_path, "sft", "f")  # nothing was stopped
    leave(tmp_path, "sft", 1200)
    assert needs_data(tmp_path, "sft", "f") and not needs_data(tmp_path, "sft", "other")
    assert not needs_data(tmp_path, "reward", "f")


def test_checkpoints_are_found_by_their_names(tmp_path):
    assert list_checkpoints(tmp_path / "sft" / "checkpoints") == []
    made = [leave(tmp_path, "sft", step) for step in (1000, 20)]
    for other in ("step-x", ".step-00000030.partial-1", "others"):
        (tmp_path / "sft/checkpoints" / other).mkdir()
    assert list_checkpoints(tmp_path / "sft" / "checkpoints") == [made[1], made[0]]
    assert [step_of(place) for place in made] == [1000, 20]


def test_a_stopped_phase_is_neither_repeated_nor_lost(tmp_path):
    folder = tmp_path / "run"
    run(folder).claim("sft")
    left = leave(folder, "sft", 1200)
    with pytest.raises(OutputError, match="the sft phase of this run was stopped after step 1,200") as caught:
        run(folder).claim("sft")
    assert caught.value.where == str(left)
    assert caught.value.hint.startswith("--resume continues from there, --overwrite begins again")
    run(folder).claim("sft", resume=True)
    run(folder).claim("sft", overwrite=True)


@pytest.mark.parametrize("verb", ["sft", "data", "eval"])
def test_another_recipe_is_refused_before_anything_is_written(tmp_path, verb):
    folder = tmp_path / "run"
    run(folder).claim("sft")
    leave(folder, "sft", 3)
    before = (folder / "recipe.yaml").read_text()
    with pytest.raises(OutputError, match=r"seed: 1234 \(checkpoint\) 5 \(now\)"):
        run(folder, seed=5).claim(verb, resume=True)
    assert (folder / "recipe.yaml").read_text() == before
    run(folder, logging={"every": 3}).claim(verb, resume=True)


def test_a_phase_that_is_trained_again_can_resume_although_the_old_model_is_there(tmp_path):
    folder = tmp_path / "run"
    run(folder).claim("sft")
    (folder / "sft/final").mkdir(parents=True)
    leave(folder, "sft", 3)
    run(folder).claim("sft", resume=True)


def test_a_damaged_manifest_is_skipped(tmp_path):
    good = leave(tmp_path, "sft", 1)
    for number, text in enumerate(["", "hash\n{", "hash\n[]", 'hash\n{"settings": 3}', "hash\n{}"]):
        (leave(tmp_path, "sft", 2 + number) / "manifest.txt").write_text(text)
    with pytest.raises(OutputError) as caught:
        refuse_other_settings(recipe(tmp_path, seed=5), "sft", tmp_path)
    assert caught.value.where == str(good)
