"""Code that may run is announced before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhfcli.recipe.schema import Recipe
from rlhfcli.recipe.trust import notes


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(name: str, *, trusted: bool = True) -> Recipe:
    sections = {"model": {"name": name, "trust_remote_code": trusted}, "data": {"sources": [{"path": "a.jsonl"}]}}
    return Recipe.model_validate({"output_dir": "run", **sections})


def folder(name: str, *files: str, auto_map: object = None) -> None:
    Path(name).mkdir(parents=True)
    for file in files:
        Path(name, file).touch()
    Path(name, "config.json").write_text(json.dumps({} if auto_map is None else {"auto_map": auto_map}))


SAID = "model.trust_remote_code: true: runs the Python code of "


def test_nothing_runs_and_nothing_is_reported() -> None:
    folder("m", "evil.py")
    assert list(notes(recipe("m", trusted=False))) == []
    folder("plain")
    assert list(notes(recipe("plain"))) == []


def test_the_files_of_each_folder_are_named() -> None:
    folder("m", "b.py", "a.py")
    folder("run/sft/final", "evil.py")
    assert list(notes(recipe("m"))) == [f"{SAID}m (a.py, b.py)", f"{SAID}run/sft/final (evil.py)"]


def test_a_model_of_the_hub_is_named() -> None:
    assert list(notes(recipe("somebody/model"))) == [f"{SAID}somebody/model on the hub, if any"]
    assert list(notes(recipe("builtin:tiny"))) == []


@pytest.mark.parametrize("auto_map", [{"AutoConfig": "else/where--c.C"}, {"AutoTokenizer": ["else/where--t.T", None]}])
def test_code_of_another_repository_is_named(auto_map: object) -> None:
    folder("m", auto_map=auto_map)
    assert list(notes(recipe("m"))) == [f"{SAID}else/where on the hub, which m/config.json names"]


@pytest.mark.parametrize("auto_map", [[], "x", 3, {"AutoConfig": 3}, {"AutoConfig": [[1]]}, {"AutoConfig": "own.C"}])
def test_a_config_that_names_nothing(auto_map: object) -> None:
    folder("m", auto_map=auto_map)
    assert list(notes(recipe("m"))) == []
