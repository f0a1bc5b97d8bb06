"""``rlhf runs``: runs in every state, intact and damaged."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rlhfcli import cli
from rlhfcli.cli.inspect.runs import Run, read, state
from rlhfcli.files import folder_lock
from tests.recipe.test_messages import BOMB

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhf", "runs", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def make(root: Path, name: str, *, rows: int = 100, recipe: str = "", used: str = "2026-01-02T03:04:05+00:00") -> Path:
    """A run whose data is prepared."""
    run = root / name
    write(run / "run.json", {"updated": used, "parts": {}})
    write(run / "recipe.yaml", f"output_dir: {run}\n{recipe}")
    manifest = {"tokens": {f"{phase}_train": {"rows": rows} for phase in ("sft", "reward")}}
    write(run / "data" / "manifest.json", manifest)
    return run


def metrics(run: Path, phase: str, *lines: dict[str, Any]) -> None:
    write(run / phase / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    os.utime(run / phase / "metrics.jsonl", (1_000_000_000, 1_000_000_000))


def only(root: Path) -> Run:
    (found,), _ = read(root)
    return found


def test_every_state_in_words(tmp_path: Path) -> None:
    run = make(tmp_path, "x", recipe="sft: {batch_size: 8}\nreward: {batch_size: 10, max_steps: 7}\n")
    assert state(only(tmp_path)) == "data prepared"
    metrics(run, "sft", {"step": 0, "eval_loss": 2.0}, {"step": 5, "loss": 1.0})
    assert state(only(tmp_path)) == "sft 5/13"  # 100 rows, 8 a step
    (run / "sft" / "checkpoints" / "step-00000004").mkdir(parents=True)
    (run / "sft" / "checkpoints" / "step-00000002").mkdir()
    assert state(only(tmp_path)) == "sft 5/13 (checkpoint 4)"
    (run / "sft" / "final").mkdir()
    metrics(run, "reward", {"step": 3, "loss": 1.0})
    assert state(only(tmp_path)) == "sft done, reward 3/7"
    (run / "reward" / "final").mkdir()
    assert state(only(tmp_path)) == "sft done, reward done"
    write(run / "eval" / "sft.json", {"perplexity": 3.25})
    assert state(only(tmp_path)) == "sft done, reward done"
    write(run / "eval" / "reward.json", {"accuracy": 0.5})
    assert state(only(tmp_path)) == "evaluated"


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write(tmp_path / "x" / "run.json", {})
    write(tmp_path / "x" / "recipe.yaml", "seed: 1\n")
    assert state(only(tmp_path)) == "begun" and only(tmp_path).broken == []


@pytest.mark.parametrize(
    ("section", "steps"),
    [
        ("{batch_size: 64, epochs: 2.5}", 5),  # two whole epochs of 2 steps, and 50 rows
        ("{batch_size: 7}", 15),
        ("{batch_size: 7, max_steps: 1000}", 15),
        ("{epochs: 0.25, batch_size: 7}", 4),
        ("{}", 2),
    ],
)
def test_the_number_of_steps_is_that_of_the_loop(tmp_path: Path, section: str, steps: int) -> None:
    from rlhfcli.core.training.step_plan import plan_steps
    from rlhfcli.files.strict_yaml import read as read_yaml
    from rlhfcli.recipe.schema import SftSection

    metrics(make(tmp_path, "x", recipe=f"sft: {section}\n"), "sft", {"step": 1})
    assert only(tmp_path).phases["sft"].steps == steps

    class Rows:
        def lengths(self) -> list[int]:
            return [1] * 100

    phase = SftSection.model_validate(read_yaml(section, "").data or {})
    assert len(plan_steps(Rows(), phase, 1)) == steps  # type: ignore[arg-type]


def test_the_best_figures(tmp_path: Path) -> None:
    run = make(tmp_path, "x")
    lines = [{"step": step, "eval_loss": loss} for step, loss in ((0, 2.0), (10, 1.25), (20, 1.5))]
    metrics(run, "sft", *lines)
    assert only(tmp_path).figures == {"sft_loss": 1.25}
    write(run / "run.json", {"parts": {"sft": {"eval_loss": 1.5}}})
    assert only(tmp_path).figures == {"sft_loss": 1.25}  # it is being trained again
    (run / "sft" / "final").mkdir()
    assert only(tmp_path).figures == {"sft_loss": 1.5}  # that of the model that was saved
    (run / "sft" / "final").rmdir()
    metrics(run, "reward", {"step": 1, "eval_loss": 0.69, "eval_accuracy": 0.5})
    assert only(tmp_path).figures == {"sft_loss": 1.25, "reward_loss": 0.69}
    metrics(run, "reward", *({"step": n, "eval_loss": 0.69, "eval_nll": 0.68} for n in (1, 2)))
    assert only(tmp_path).figures == {"sft_loss": 1.25, "reward_nll": 0.68}
    write(run / "run.json", {"parts": {"reward": {"eval_accuracy": 0.625}}})
    assert only(tmp_path).figures == {"sft_loss": 1.25, "accuracy": 0.625}
    write(run / "eval" / "sft.json", {"perplexity": 3.5})
    write(run / "eval" / "reward.json", {"accuracy": 0.75, "accuracy_ci95": [0.7, 0.8]})
    assert only(tmp_path).figures == {"perplexity": 3.5, "accuracy": 0.75, "accuracy_ci95": [0.7, 0.8]}


def test_the_newest_is_first_and_metrics_count_as_use(tmp_path: Path) -> None:
    make(tmp_path, "old", used="2001-01-01T00:00:00+00:00")
    make(tmp_path, "new", used="2002-01-01T00:00:00Z")
    newest = make(tmp_path, "training", used="2000-01-01T00:00:00+00:00")
    metrics(newest, "sft", {"step": 1})
    os.utime(newest / "sft" / "metrics.jsonl", (1_600_000_000, 1_600_000_000))
    assert [run.name for run in read(tmp_path)[0]] == ["training", "new", "old"]


def test_the_run_that_a_command_takes_is_marked(call: Call, tmp_path: Path) -> None:
    tuned = make(tmp_path / "runs", "tuned", used="2026-01-01T00:00:00+00:00")
    assert "→ without --recipe every command takes tuned" in call()[1]
    make(tmp_path / "runs", "new", used="2026-01-02T00:00:00+00:00")
    (tuned / "sft" / "final").mkdir(parents=True)
    _, out, err = call()
    assert "→ new" in out and "→ tuned" in out and err == ""
    assert (
        "→ without --recipe prepare-data, sft, run, export reward take new; reward, eval, chat, export sft take" in out
    )
    assert [run["taken_by"][:1] for run in json.loads(call("--json")[1])] == [["prepare-data"], ["reward"]]
    assert "→" not in call("--root", str(tmp_path / "runs"))[1]  # commands look into runs/ alone


def test_a_locked_run_names_its_command(call: Call, tmp_path: Path) -> None:
    run = make(tmp_path / "runs", "x")
    with folder_lock.locked(run, "rlhf sft --resume"):
        assert f"x is in use by rlhf sft --resume (process {os.getpid()}, since 20" in call()[1]
        left = (run / folder_lock.HOLDER).read_text()
    assert "in use" not in call()[1]
    for name, text in ((folder_lock.HOLDER, left), (folder_lock.LOCK, "")):  # as a kill leaves them
        (run / name).write_text(text)
    assert "in use" not in call()[1] and (run / folder_lock.LOCK).exists()


def test_one_bad_run_does_not_lose_the_list(call: Call, tmp_path: Path) -> None:
    make(tmp_path / "runs", "whole")
    for number, (used, recipe) in enumerate(
        [("0001-01-01T00:00:00+14:00", ""), ("9999-12-31T23:59:59-10:00", ""), ("2099-01-01T00:00:00+00:00", "")]
        + [("", f"sft: {{{key}: {value}}}\n") for key in ("epochs", "batch_size", "max_steps") for value in NUMBERS]
    ):
        run = make(tmp_path / "runs", f"bad{number}", used=used, recipe=recipe)
        if recipe:
            metrics(run, "sft", {"step": 10**400, "eval_loss": 1e308})
    for name in ("run.json", "recipe.yaml"):
        os.utime(tmp_path / "runs/bad2" / name, (4e9, 4e9))
    code, out, err = call()
    assert code == 0 and "whole" in out and f"bad{number}" in out and "Traceback" not in err
    assert "runs/bad2: its times lie in the future" in err


NUMBERS = ["1e308", "1e-308", "-1", "0", "9" * 400, ".inf", ".nan", "text", "[1]"]
BROKEN = [
    ("run.json", "{", "run.json cannot be read"),
    ("run.json", "[]", "run.json holds no keys"),
    ("run.json", None, "run.json is missing"),
    ("recipe.yaml", None, "recipe.yaml is missing"),
    ("recipe.yaml", "a: [", "recipe.yaml cannot be read"),
    ("recipe.yaml", "- 1\n", None),
    ("recipe.yaml", BOMB, "recipe.yaml cannot be read: recipe.yaml:2: its aliases repeat more than 10,000 values"),
    ("run.json", '{"updated": 7, "parts": [], "x": NaN}', None),
    ("data/manifest.json", "{", "data/manifest.json cannot be read"),
    ("data/manifest.json", '{"tokens": {"sft_train": {"rows": "many"}}}', None),
    ("recipe.yaml", "a: " + "[" * 3000, "recipe.yaml cannot be read"),
    ("recipe.yaml", "\0", "recipe.yaml cannot be read"),
    ("sft/metrics.jsonl", "[" * 100_000 + "\n{}", "sft/metrics.jsonl:1 is not a line of metrics"),
    ("sft/metrics.jsonl", 'junk\n{"step": 4}\n', "sft/metrics.jsonl:1 is not a line of metrics"),
    ("sft/metrics.jsonl", '{"step": 4}\n{"step": 5, "lo', None),  # it is being written
    ("sft/metrics.jsonl", '{"step": "x", "eval_loss": NaN}\n', None),
    ("eval/reward.json", "", "eval/reward.json cannot be read"),
    ("eval/reward.json", '{"accuracy": "high", "accuracy_ci95": 3}', None),
]


@pytest.mark.parametrize(("name", "content", "said"), BROKEN)
def test_a_broken_run_is_listed_with_its_problems(
    call: Call, tmp_path: Path, name: str, content: str | None, said: str | None
) -> None:
    run = make(tmp_path / "runs", "x")
    make(tmp_path / "runs", "whole")
    (run / "sft" / "final").mkdir(parents=True)
    if content is None:
        (run / name).unlink()
    else:
        write(run / name, content)
    code, out, err = call()
    assert code == 0 and "Traceback" not in err
    assert "whole" in out and "sft done" in out
    assert (f"runs/x: {said}" in err) if said else err == ""
    assert ("broken" in out) == bool(said)


def test_other_things_are_counted(call: Call, tmp_path: Path) -> None:
    make(tmp_path / "runs", "x")
    (tmp_path / "runs" / "notes.txt").touch()
    (tmp_path / "runs" / "old").mkdir()
    assert "2 other things in runs, no run" in call()[2]


def test_json_alone(call: Call, tmp_path: Path) -> None:
    metrics(make(tmp_path / "elsewhere", "x"), "sft", {"step": 2, "eval_loss": 1.5})
    code, out, err = call("--root", "elsewhere", "--json")
    (found,) = json.loads(out)
    assert (code, err) == (0, "")
    assert datetime.fromisoformat(found["used"]).year == 2026
    assert (found["name"], found["path"]) == ("x", "elsewhere/x") and found["figures"] == {"sft_loss": 1.5}
    assert found["phases"]["sft"] == {
        "done": False,
        "step": 2,
        "steps": 2,
        "checkpoint": None,
        "best": 1.5,
        "figure": "loss",
    }


def test_no_runs_yet(call: Call) -> None:
    code, out, err = call()
    assert (code, out) == (0, "") and err.startswith("there is no run in runs yet")
    assert call("--json") == (0, "[]\n", "")
    code, _, err = call("--root", "typo")
    assert code == 2 and "typo: there is no such folder" in err
