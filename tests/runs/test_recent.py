"""The run that a command works on if none is named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from rlhfcli.runs import recent
from rlhfcli.runs.recent import choose, last_used, newest_first

RUNS = Path("runs")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, updated: str | None = None, *, made: str = "", age: float = 0.0, recipe: str = "") -> Path:
    folder = RUNS / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe)
    os.utime(folder / "recipe.yaml", (1e9 - age, 1e9 - age))
    if updated is not None:
        (folder / "run.json").write_text(json.dumps({"updated": updated}))
    for part in made.split():
        (folder / part).mkdir(parents=True)
    return folder


def test_the_newest_first() -> None:
    run("a", "2025-11-24T02:00:00+00:00")
    run("b", "2025-11-24T02:30:00.123+00:00")
    run("c", "2025-11-24T03:15:00+01:00")  # earlier than b
    (RUNS / "no_recipe").mkdir()
    (RUNS / "file").touch()
    assert [found.name for found in newest_first(RUNS)] == ["b", "c", "a"]
    assert newest_first(Path("nowhere")) == []


def test_a_run_that_trains_is_newer_than_its_record() -> None:
    training = run("a", "2025-01-01T00:00:00+00:00")
    run("b", "2025-01-02T00:00:00+00:00")
    (training / "sft").mkdir()
    (training / "sft" / "metrics.jsonl").touch()
    assert newest_first(RUNS)[0] == training


@pytest.mark.parametrize("updated", ["2099-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_a_time_in_the_future_does_not_count(updated: str) -> None:
    wrong = run("a", updated)
    run("b", "2025-01-01T00:00:00+00:00")
    os.utime(wrong / "run.json", (1e9, 1e9))
    assert newest_first(RUNS)[0].name == "b"
    assert last_used(wrong) == 1e9  # its file was written then
    os.utime(wrong / "run.json", (4e9, 4e9))  # the clock was wrong for the file system, too
    assert newest_first(RUNS)[0].name == "b"


@pytest.mark.parametrize(
    "text", ["{", "", "[1]", '"x"', '{"updated": null}', '{"updated": "0001-01-01T00:00:00+14:00"}', "[" * 10_000]
)
def test_a_record_that_cannot_be_read_counts_by_its_file(text: str) -> None:
    broken = run("a")
    (broken / "run.json").write_text(text)
    os.utime(broken / "run.json", (1e9 + 5, 1e9 + 5))
    run("b", age=-3)
    assert last_used(broken) == 1e9 + 5
    assert [found.name for found in newest_first(RUNS)] == ["a", "b"]


def test_a_folder_of_another_user_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    run("mine", "2025-01-01T00:00:00+00:00")
    run("secret", "2025-01-02T00:00:00+00:00")
    is_file = Path.is_file

    def guarded(self: Path) -> bool:
        if "secret" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return is_file(self)

    monkeypatch.setattr(Path, "is_file", guarded)  # the tests may run as root, who may read everything
    assert [found.name for found in newest_first(RUNS)] == ["mine"]


NEEDS = [
    # what the newest run has, the verb → which run it takes
    ("", "sft", "new"),
    ("", "chat", "old"),
    ("", "eval", "old"),
    ("", "reward", "old"),
    ("", "export sft", "old"),
    ("", "export reward", "old"),
    ("sft/final", "chat", "new"),
    ("sft/final", "reward", "new"),
    ("reward/final", "eval", "new"),
    ("reward/final", "chat", "old"),
    ("reward/checkpoints/step-00000003", "reward", "new"),
    ("sft/checkpoints/step-00000003", "chat", "old"),
]


@pytest.mark.parametrize(("made", "verb", "taken"), NEEDS)
def test_a_verb_takes_a_run_that_has_what_it_needs(made: str, verb: str, taken: str) -> None:
    run("old", "2025-01-01T00:00:00+00:00", made="sft/final reward/final")
    run("new", "2025-01-02T00:00:00+00:00", made=made)
    choice = choose(RUNS, verb)
    assert choice.run == RUNS / taken
    if taken == "new":
        assert choice.why == "the newest run in runs/"
    else:
        assert choice.why.startswith("the newest run in runs/ with ")
        assert choice.why.endswith("; runs/new is newer and has none")


def test_a_reward_model_of_the_base_needs_no_fine_tuned_one() -> None:
    run("old", "2025-01-01T00:00:00+00:00", made="sft/final")
    run("new", "2025-01-02T00:00:00+00:00", recipe="reward: {init_from: base}\n")
    assert choose(RUNS, "reward").run == RUNS / "new"
    (RUNS / "new" / "recipe.yaml").write_text("reward: [\n")
    assert choose(RUNS, "reward").run == RUNS / "old"
    assert choose(RUNS, "reward", ["reward.init_from=base"]).run == RUNS / "new"


@pytest.mark.parametrize("verb", ["", *recent.NEEDS])
def test_where_no_run_has_it_the_newest_is_taken(verb: str) -> None:
    assert choose(RUNS, verb).run is None
    run("a", "2025-01-01T00:00:00+00:00")
    run("b", "2025-01-02T00:00:00+00:00")
    assert choose(RUNS, verb).run == RUNS / "b"


def test_a_clock_of_another_machine_may_be_a_little_ahead() -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 60))
    run("a", soon)
    run("b", "2025-01-01T00:00:00+00:00")
    assert newest_first(RUNS)[0].name == "a"
