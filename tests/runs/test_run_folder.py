"""What a command may do in a run folder, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.errors import DataError, ModelError, OutputError
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(command: Sequence[str] = ("rlhf",), **changes: Any) -> RunFolder:
    sections = {
        "output_dir": "runs/x",
        "model": {"name": "builtin:tiny"},
        "data": {"sources": [{"path": "builtin:tiny"}]},
    }
    return RunFolder(Recipe.model_validate(sections | changes), command)


def finish(*parts: str) -> None:
    for part in parts:
        Path("runs/x", part, "final").mkdir(parents=True, exist_ok=True)
        Path("runs/x", part, "final", "B2SUMS").touch()


def test_a_new_folder_gets_the_recipe_and_the_record():
    folder().claim("data")
    assert sorted(file.name for file in Path("runs/x").iterdir()) == ["recipe.yaml", "run.json"]


def test_a_folder_with_something_else_is_refused():
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something other than"):
        folder().claim("sft")
    assert Path("runs/x/thesis.txt").read_text() == "mine"


def test_a_recipe_written_by_hand_is_not_replaced():
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/recipe.yaml").write_text("# my notes\noutput_dir: runs/x\n")
    with pytest.raises(OutputError, match="holds something other than"):
        folder().claim("sft")
    assert Path("runs/x/recipe.yaml").read_text().startswith("# my notes")


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path("runs/x", name).parent.mkdir(parents=True, exist_ok=True)
        Path("runs/x", name).write_text(text)


def everything() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path("runs").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"recipe.yaml": "# precious\noutput_dir: .\n", "data/mine.jsonl": "{}"}, "data"),
        ({"sft/final/thesis.txt": "mine", "sft/checkpoints/mine/x": "mine"}, "sft"),
        ({"run.json": "{}", "sft/final/thesis.txt": "mine"}, "sft"),
        ({"run.json": "{}", "reward/final/B2SUMS": "0  a\n", "reward/final/thesis.txt": "mine"}, "reward"),
        ({"run.json": "{}", "data/mine.jsonl": "{}"}, "sft"),
        ({"run.json": "{}", "data": "a file"}, "data"),
        ({"run.json": "{"}, "data"),
        ({"run.json": '{"parts": {"sft": 3}}'}, "sft"),
    ],
)
def test_overwriting_replaces_only_files_of_ours(files, part):
    write(files)
    before = everything()
    for run in (folder(), folder()):
        with pytest.raises(OutputError), run.locked():
            run.claim(part, overwrite=True)
    assert everything() == before


def test_all_models_of_a_run_are_looked_at_before_the_first_is_replaced():
    finish("sft")
    folder().refuse_other_models()
    write({"reward/final/thesis.txt": "mine"})
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        folder().refuse_other_models()


def test_a_run_is_not_trained_on_what_it_has_made():
    folder().claim("sft")
    finish("sft")
    Path("runs/x/data").mkdir()
    own = {"model": {"name": str(Path("runs/x/sft/final").resolve())}}
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"model\.name is an output of this run itself"):
            folder(**own).claim("sft", overwrite=overwrite)
    with pytest.raises(OutputError, match=r"data\.sources\.0\.path is an output of this run itself"):
        folder(data={"sources": [{"path": "runs/x/data"}]}).claim("sft", overwrite=True)
    Path("runs/x/chat").mkdir()
    folder(data={"sources": [{"path": "runs/x/chat"}]}).claim("sft", overwrite=True)  # what was said is the user's
    folder(**own, output_dir="runs/y").claim("sft")


def test_a_finished_phase_with_other_settings_does_not_count_as_done():
    run = folder()
    run.claim("sft")
    made(run, "sft")
    folder(logging={"every": 3}, sft={"micro_batch_tokens": 64}).refuse_other_settings("sft")
    with pytest.raises(OutputError, match=r"trained with other settings\nsft.max_steps: null \(trained\) 6 \(now\)"):
        folder(sft={"max_steps": 6}).refuse_other_settings("sft")


def test_one_command_at_a_time():
    with folder().locked():
        folder().claim("data")
        with pytest.raises(OutputError, match="in use by"), folder().locked():
            pass
    with folder().locked():
        folder().claim("data")


def test_a_command_that_makes_nothing_leaves_nothing():
    with folder().locked():
        assert Path("runs/x/.lock").exists()
    assert not Path("runs").exists()


BROKEN = [
    ("", "is not JSON"),
    ('{"updated": "2026', "is not JSON"),
    ("\0\0\0", "is not JSON"),
    ("[1]", "must hold keys, got a list"),
    ("[" * 100_000, "is not JSON"),
    ('{"parts": [1]}', "parts: must be a section, got a list"),
    ('{"parts": {"sft": 3}}', "parts.sft: must be a section with keys of its own, got 3"),
    ('{"parts": {"sft": {"recipe": [1]}}}', "parts.sft.recipe: must be a section, got a list"),
    ('{"parts": {"sft": {"steps": "x"}}}', 'parts.sft.steps: must be a whole number, got the text "x"'),
    ('{"parts": {"sft": {"eval_loss": "low"}}}', 'eval_loss must be a number, got the text "low"'),
    ('{"commands": "x"}', 'commands: must be a list, got the text "x"'),
    ('{"updated": 7}', "updated: must be text, got 7"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
@pytest.mark.parametrize("part", ["data", "sft", "reward", "eval"])
def test_a_record_that_was_edited_is_an_error_that_names_the_key(text, said, part):
    folder().claim("sft")
    Path("runs/x/run.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(OutputError) as caught:
            folder().claim(part, overwrite=overwrite)
        assert said in caught.value.what and caught.value.where == "runs/x/run.json"
    assert Path("runs/x/run.json").read_text() == text


@pytest.mark.parametrize(
    "text", ["{}", '{"parts": null, "commands": null, "mine": [1]}', '{"parts": {"sft": {"a": 1}}}']
)
def test_a_record_may_lack_entries(text):
    folder().claim("sft")
    made(folder(), "sft")
    Path("runs/x/run.json").write_text(text)
    folder().claim("reward")
    assert json.loads(Path("runs/x/run.json").read_text())["commands"]
    with pytest.raises(OutputError, match="sft was made with other settings"):
        folder(seed=7).claim("reward")


def test_a_record_that_was_damaged_meanwhile_does_not_lose_what_was_trained():
    run = folder()
    run.claim("sft")
    Path("runs/x/run.json").write_text("{")
    run.record_done({"sft": {"steps": 3}})
    assert run.read_record()["parts"]["sft"]["steps"] == 3


def test_what_is_no_unicode_is_written_as_an_escape():
    folder(["rlhf", "sft", "--recipe", "b\udcffd.yaml"]).claim("sft")
    assert folder().read_record()["commands"] == ["rlhf sft --recipe b\udcffd.yaml"]


@pytest.mark.parametrize("text", ["{", "", "[1]", "\0"])
def test_a_run_whose_recipe_cannot_be_read(text):
    folder().claim("sft")
    finish("sft")
    Path("runs/x/recipe.yaml").write_text(text)
    with pytest.raises(OutputError, match="belongs to another recipe"):
        folder().claim("reward")
    folder().claim("reward", overwrite=True)


def test_training_again_needs_overwrite():
    folder().claim("sft")
    finish("sft")
    with pytest.raises(OutputError, match="already done"):
        folder().claim("sft")
    folder().claim("sft", overwrite=True)


@pytest.mark.parametrize("part", ["reward", "data", "eval"])
def test_another_recipe_is_refused_once_something_is_made(part):
    folder().claim("sft")
    folder(seed=7).claim("sft")  # nothing is made yet
    finish("sft")
    before = Path("runs/x/recipe.yaml").read_text()
    with pytest.raises(
        OutputError, match=r"another recipe: sft was made with other settings\nseed: 7 \(before\) 8 \(now\)"
    ):
        folder(seed=8).claim(part)
    assert Path("runs/x/recipe.yaml").read_text() == before


def test_what_only_the_evaluation_reads_may_change():
    folder().claim("sft")
    finish("sft", "reward")
    folder(eval={"samples": 3}).claim("eval")


def test_an_evaluation_with_other_settings_says_so_and_leaves_the_recipe_true():
    run = folder()
    run.claim("sft")
    made(run, "sft")
    made(run, "reward")
    before = Path("runs/x/recipe.yaml").read_text()
    assert folder(eval={"samples": 3}, sft={"micro_batch_tokens": 64}).differing_settings() == []
    other = folder(sft={"learning_rate": 1e-4}, reward={"epochs": 3})
    other.claim("eval")
    assert Path("runs/x/recipe.yaml").read_text() == before
    assert other.differing_settings() == [
        "sft and reward were trained with other settings than this recipe's; what is measured is what they made",
        "sft.learning_rate: 2e-05 (trained) 0.0001 (now)",
        "reward.epochs: 1.0 (trained) 3.0 (now)",
    ]


@pytest.mark.parametrize(
    ("section", "error", "key"),
    [
        ({"data": {"sources": [{"path": "PATH"}]}}, DataError, "data.sources.0.path"),
        ({"data": {"sources": [{"path": "builtin:tiny"}], "template": "PATH"}}, DataError, "data.template"),
        ({"model": {"name": "PATH"}}, ModelError, "model.name"),
    ],
)
@pytest.mark.parametrize("typed", ["mine/p.jinja", "./mine/p.jinja", "../x/mine/p.jinja"])
def test_a_missing_input_of_a_run_is_named(tmp_path, section, error, key, typed):
    def named(path: str) -> RunFolder:
        return folder(**json.loads(json.dumps(section).replace("PATH", path)))

    there = tmp_path / "x" / "mine" / "p.jinja"  # absolute, as it was when the file was there
    run = named(str(there))
    run.claim("sft")
    made(run, "sft")
    for part in ("reward", "eval", "data"):
        with pytest.raises(error) as caught:
            named(typed).claim(part)
        assert (caught.value.where, caught.value.what) == (
            str(there),
            "this run was made from it, and it no longer exists",
        )
        assert f"the recipe names it {typed} ({key})" in caught.value.hint
    there.parent.mkdir(parents=True)
    there.touch()
    for other in (typed, "another.jinja"):  # there it is, or another one is meant
        with pytest.raises(OutputError, match="belongs to another recipe"):
            named(other).claim("reward")


def made(run: RunFolder, part: str) -> None:
    finish(part)
    run.record_done({part: {"steps": 1}})


def test_what_another_recipe_made_is_known_after_an_overwrite_that_did_not_end():
    run = folder()
    run.claim("sft")
    made(run, "sft")
    again = folder(seed=7)
    again.claim("data", overwrite=True)  # rlhf run --overwrite, killed before its SFT ended
    with pytest.raises(OutputError, match=r"sft was made with other settings\nseed: 1234 \(before\) 7 \(now\)"):
        again.claim("reward")
    again.claim("sft", overwrite=True)
    made_again = json.loads(Path("runs/x/run.json").read_text())["parts"]["sft"]
    assert made_again["recipe"]["seed"] == 1234


def test_a_reward_model_of_an_earlier_sft_is_noticed_but_can_be_measured():
    run = folder()
    run.claim("sft")
    made(run, "sft")
    made(run, "reward")
    again = folder(sft={"epochs": 2.0})
    again.claim("sft", overwrite=True)
    again.record_done({"sft": {"steps": 2}})
    with pytest.raises(
        OutputError, match=r"reward was made with other settings\nsft.epochs: 1.0 \(before\) 2.0 \(now\)"
    ):
        again.claim("data")
    again.claim("eval")
    again.claim("reward", overwrite=True)
    again.record_done({"reward": {"steps": 2}})
    again.claim("data")


def test_a_start_that_failed_leaves_no_run_behind():
    run = folder()
    run.claim("data")
    with pytest.raises(KeyboardInterrupt), run.removed_on_failure():
        raise KeyboardInterrupt
    assert not Path("runs/x").exists()


def test_a_failure_removes_nothing_else():
    run = folder()
    run.claim("data")
    Path("runs/x/data").mkdir()
    with pytest.raises(ZeroDivisionError), run.removed_on_failure():
        raise ZeroDivisionError
    assert Path("runs/x/recipe.yaml").is_file()
    again = folder()
    Path("runs/x/data").rmdir()
    again.claim("data")  # the run was there before this command
    with pytest.raises(ZeroDivisionError), again.removed_on_failure():
        raise ZeroDivisionError
    assert json.loads(Path("runs/x/run.json").read_text())["commands"]


def test_a_start_that_failed_removes_no_folder_of_the_user():
    Path("runs").mkdir()
    run = folder()
    with pytest.raises(KeyboardInterrupt), run.removed_on_failure():
        run.claim("data")
        raise KeyboardInterrupt
    assert list(Path("runs").iterdir()) == []


def test_the_record_holds_no_secrets():
    folder(["rlhf", "sft", "--set", "logging.wandb_key=abc123"]).claim("sft")
    assert "abc123" not in Path("runs/x/run.json").read_text() and "wandb_key" in Path("runs/x/run.json").read_text()


def test_no_secret_of_the_settings_is_written_anywhere():
    token = "hf_abcDEF0123456789abcDEF"
    source = {"path": f"https://me:{token}@host/rows.jsonl", "columns": {"prompt": token}}
    run = folder(data={"sources": [source]}, deepspeed={"config": {"comet": {"api_key": "plain"}}})
    assert run.claim("sft") == [
        "data.sources.0.path",
        "data.sources.0.columns.prompt",
        "deepspeed.config.comet.api_key",
    ]
    run.record_done({"sft": {"steps": 1}})
    finish("sft")
    assert run.claim("reward") == []  # it is said once; and the run is still known as the same recipe
    for file in Path("runs/x").rglob("*.*"):
        assert token not in file.read_text() and "plain" not in file.read_text()
