"""Commands to type next work on the run for which they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs.commands import command_for

MINE, OTHER = "2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(folder: str, **model: object) -> Recipe:
    sections = {"output_dir": folder, "model": {"name": "m", **model}, "data": {"sources": [{"path": "a.jsonl"}]}}
    return Recipe.model_validate(sections)


def run(folder: str, updated: str, *, tuned: bool = True) -> None:
    Path(folder, "sft/final" if tuned else "").mkdir(parents=True)
    Path(folder, "recipe.yaml").touch()
    Path(folder, "run.json").write_text(json.dumps({"updated": updated}))


CASES = [
    # the run, others in runs/ → what is typed
    ("runs/a", [], "rlhf reward"),
    ("./runs/a", [], "rlhf reward"),
    ("exp/foo", [], "rlhf reward --recipe exp/foo"),
    ("exp/my run", [], "rlhf reward --recipe 'exp/my run'"),
    ("runs/a", [("runs/b", OTHER, True)], "rlhf reward"),
    ("runs/a", [("runs/b", "2026-01-03T00:00:00+00:00", True)], "rlhf reward --recipe runs/a"),
    ("runs/a", [("runs/b", "2026-01-03T00:00:00+00:00", False)], "rlhf reward"),  # that has nothing to start from
    ("exp/foo", [("runs/b", OTHER, True)], "rlhf reward --recipe exp/foo"),
]


@pytest.mark.parametrize(("folder", "others", "expected"), CASES)
def test_a_command_names_the_run_where_it_would_take_another(
    folder: str, others: list[tuple[str, str, bool]], expected: str
) -> None:
    run(folder, MINE)
    for name, updated, tuned in others:
        run(name, updated, tuned=tuned)
    assert command_for(recipe(folder), "rlhf reward") == expected


def test_a_command_for_later_names_the_run_if_there_are_several() -> None:
    run("runs/a", MINE)
    assert command_for(recipe("runs/a"), "rlhf sft --resume", later=True) == "rlhf sft --resume"
    run("runs/b", OTHER)
    assert command_for(recipe("runs/a"), "rlhf sft --resume", later=True) == "rlhf sft --resume --recipe runs/a"


def test_a_run_that_has_not_begun_is_not_named() -> None:
    assert command_for(recipe("exp/foo"), "rlhf sft") == "rlhf sft"


def test_the_permission_to_run_code_is_repeated() -> None:
    run("runs/a", MINE)
    expected = "rlhf chat --set model.trust_remote_code=true"
    assert command_for(recipe("runs/a", trust_remote_code=True), "rlhf chat") == expected
