"""The recipe of a command: by name, by path, by run, or that of the newest run."""

import json
import os
from pathlib import Path

import pytest

from rlhfcli.errors import RecipeError, UserError
from rlhfcli.runs.opening import find_recipe, open_recipe

BASE = "output_dir: runs/x\nmodel: {name: builtin:tiny}\ndata: {sources: [{path: builtin:tiny}]}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name, updated=None, age=0.0):
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(BASE)
    os.utime(folder / "recipe.yaml", (1e9 - age, 1e9 - age))
    if updated is not None:
        (folder / "run.json").write_text(json.dumps({"updated": updated}))
    return folder


def test_without_a_run_the_tiny_recipe_is_taken():
    assert find_recipe(None, Path("runs")) == ("tiny", "built in; no --recipe, and no run in runs/ yet")
    assert open_recipe(None).first_line == "recipe: tiny (built in; no --recipe, and no run in runs/ yet)"


def test_the_newest_run_is_taken():
    run("a", "2026-11-24T02:00:00+00:00")
    run("b", "2026-11-24T02:30:00.123+00:00")
    run("c", "2026-11-24T03:15:00+01:00")  # earlier than b
    Path("runs/no_recipe").mkdir()
    Path("runs/file").touch()
    loaded = open_recipe(None, ["seed=3"])
    assert loaded.first_line == "recipe: runs/b/recipe.yaml (the newest run in runs/), with seed=3"
    assert loaded.recipe.seed == 3


def test_a_run_that_was_renamed_is_still_that_run():
    run("a", "2026-11-24T02:00:00+00:00")
    Path("runs/a").rename("runs/b")
    assert open_recipe(None).recipe.output_dir == "runs/b"
    assert open_recipe("runs/b").recipe.output_dir == "runs/b"
    assert open_recipe("runs/b", ["output_dir=runs/c"]).recipe.output_dir == "runs/c"
    Path("mine.yaml").write_text(BASE)
    assert open_recipe("mine.yaml").recipe.output_dir == "runs/x"


TRUSTED = BASE.replace("builtin:tiny}\n", "builtin:tiny, trust_remote_code: true}\n", 1)


def test_a_run_folder_does_not_decide_whose_code_runs():
    run("a", "2025-11-24T02:00:00+00:00").joinpath("recipe.yaml").write_text(TRUSTED)
    Path("mine.yaml").write_text(TRUSTED)
    for option in (None, "runs/a", "runs/a/recipe.yaml"):
        loaded = open_recipe(option)
        assert not loaded.recipe.model.trust_remote_code
        assert "--set model.trust_remote_code=true" in loaded.notes[0]
        assert open_recipe(option, ["model.trust_remote_code=true"]).recipe.model.trust_remote_code
    assert open_recipe("mine.yaml").recipe.model.trust_remote_code and not open_recipe("mine.yaml").notes
    Path("runs/a/run.json").unlink()  # a stranger may leave it out
    for option in (None, "runs/a"):
        assert not open_recipe(option).recipe.model.trust_remote_code
    Path("runs/a/sft/final").mkdir(parents=True)
    assert not open_recipe("runs/a/recipe.yaml").recipe.model.trust_remote_code


def test_a_redacted_secret_has_to_be_given_again():
    hidden = BASE.replace("path: builtin:tiny", 'path: "https://***@host/rows.jsonl"')
    run("a", "2025-11-24T02:00:00+00:00").joinpath("recipe.yaml").write_text(hidden)
    with pytest.raises(RecipeError) as caught:
        open_recipe(None)
    what = "*** stands where a secret was, which is not written down; give it again: --set data.sources.0.path=…"
    assert str(caught.value.problems[0]) == f"runs/a/recipe.yaml:3: data.sources.0.path: {what}"
    assert open_recipe(None, ["data.sources.0.path=builtin:tiny"]).recipe.data.sources[0].path == "builtin:tiny"


def test_a_broken_newest_run_says_how_to_take_another():
    (run("a") / "recipe.yaml").write_text("lr: 3")
    with pytest.raises(UserError) as caught:
        open_recipe(None)
    assert "--recipe takes another one" in str(caught.value.hint)


def test_a_verb_takes_the_newest_run_that_has_what_it_needs():
    (run("a", "2025-11-24T02:00:00+00:00") / "sft" / "final").mkdir(parents=True)
    run("b", "2025-11-24T02:30:00+00:00")
    why = "the newest run in runs/ with sft/final; runs/b is newer and has none"
    assert open_recipe(None, verb="chat").first_line == f"recipe: runs/a/recipe.yaml ({why})"
    assert open_recipe(None, verb="sft").first_line == "recipe: runs/b/recipe.yaml (the newest run in runs/)"


def test_a_recipe_by_path_run_or_name():
    run("a")
    Path("mine.yaml").write_text(BASE)
    Path("tiny").mkdir()  # a built-in name stays one
    assert find_recipe("mine.yaml") == (Path("mine.yaml"), "from --recipe")
    assert find_recipe("runs/a")[0] == Path("runs/a/recipe.yaml")
    assert find_recipe("tiny")[0] == "tiny"


@pytest.mark.parametrize("option", ["nothing.yaml", "small", "tiny", "\0"])
def test_no_such_recipe(option):
    Path("tiny").mkdir(exist_ok=True)
    if option == "tiny":
        option = "./tiny"
    with pytest.raises(UserError):
        find_recipe(option)
