"""Benchmarks of a run's reward model: figures, the written file, prompts that were trained on, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhfcli import Project, RewardModel, cli
from rlhfcli.errors import DataError, ModelError
from tests.api.test_project import SMALL, small
from tests.evaluation.benchmarks import hh_row, judgebench_row, rewardbench2_row, rm_bench_row, write


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = small(tmp_path_factory.mktemp("run") / "run")
    project.sft()
    project.reward()
    return project


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("benchmarks")
    pairs = [judgebench_row(pair_id=f"p{n}", question=f"Which of {n}?", response_B="That. " * n) for n in range(1, 80)]
    blank = rewardbench2_row() | {"rejected": ["", "wrong 1", "wrong 2"]}
    return [
        write(place / "judgebench" / "gpt.jsonl", pairs),
        write(place / "rb2.json", [rewardbench2_row(), rewardbench2_row("Ties", "ref:1"), blank]),
    ]


def test_figures_are_those_of_scores_one_by_one(run: Project, paths: list[Path]) -> None:
    result = run.benchmark(paths)
    model = RewardModel.load(run.folder / "reward" / "final")
    right = 0
    for line in paths[0].read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = {"role": "user", "content": row["question"]}
        first, second = (
            model.score([[question, {"role": "assistant", "content": row[key]}]])[0]
            for key in ("response_A", "response_B")
        )
        right += first > second  # every label is A>B
    total = result["benchmarks"][0]["totals"][0]
    assert (total["n"], total["value"]) == (79, pytest.approx(right / 79))
    second = result["benchmarks"][1]
    assert second["columns"][0]["n"] == 2  # an empty answer is scored, too
    assert second["notes"][1] == "Ties is left out: no prompt is there with one right answer and with several"


def test_the_file_keeps_other_benchmarks_and_models(run: Project, paths: list[Path], tmp_path: Path) -> None:
    run.benchmark(paths[:1])
    run.benchmark([write(tmp_path / "rm.json", [rm_bench_row()])])
    run.benchmark(paths[:1], f"{run.folder}/reward/final/")
    written: dict[str, Any] = json.loads((run.folder / "eval" / "benchmarks.json").read_text(encoding="utf-8"))
    own = str(run.folder / "reward" / "final")
    assert set(written) == {own, f"{own}/"}
    assert {"judgebench", "rm-bench"} <= set(written[own])


def test_prompts_that_were_trained_on_are_counted(run: Project, tmp_path: Path) -> None:
    rows = [{key: text.replace("dog", f"dog {n}") for key, text in hh_row().items()} for n in range(40)]
    sources = [{"path": str(write(tmp_path / "data.jsonl", rows))}]
    split = {"data.validation": 0.1, "data.split_by": "row"}
    trained = Project("tiny", SMALL | {"output_dir": str(tmp_path / "run"), "data.sources": sources} | split)
    trained.prepare()
    other = {key: text.replace("dog", "cow") for key, text in hh_row().items()}
    file = write(tmp_path / "helpful-base" / "test.jsonl", [*rows, other])
    result = trained.benchmark([file], run.folder / "reward" / "final")["benchmarks"][0]
    overlap = result["in_training_data"]
    assert (overlap["rows"], len(overlap["examples"])) == (41, 10)
    assert 20 < overlap["found"] < 41


def test_errors(tmp_path: Path) -> None:
    project = small(tmp_path / "none")
    with pytest.raises(ModelError, match="there is no reward model to measure yet"):
        project.benchmark([tmp_path])
    with pytest.raises(DataError, match="there is no such file or folder"):
        project.benchmark([tmp_path / "none.json"], _folder_of_any_model())
    assert not (tmp_path / "none").exists()


def _folder_of_any_model() -> str:
    from rlhfcli import tiny

    return str(Path(tiny.__file__).parent / "model")


def test_on_the_command_line(run: Project, paths: list[Path]) -> None:
    reward = str(run.folder / "reward" / "final")
    shown = CliRunner().invoke(cli.app, ["eval", "--reward", reward, "--benchmark", str(paths[0])])
    assert shown.exit_code == 0, shown.output
    assert "JudgeBench" in shown.output
    assert "share of all pairs" in shown.output
    alone = CliRunner().invoke(cli.app, ["eval", "--reward", reward])
    assert "--reward and --label go with --benchmark" in str(alone.exception) + alone.output
    raw = CliRunner().invoke(cli.app, ["eval", "--reward", reward, "--benchmark", str(paths[1]), "--json"])
    assert json.loads(raw.stdout)["benchmarks"][0]["benchmark"] == "rewardbench2"
