"""The same losses on one rank and on two, whatever DeepSpeed partitions. Real processes, gloo, fp32."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhfcli.core.parallel import extensions
from rlhfcli.core.training.metrics_log import read_metrics
from tests.core import rank_worker

ROOT = Path(__file__).parents[3]
APART = 1e-4
FEW = ["opt-2-full", "llama-3-lora-tight"]
LAYOUTS = [(stage, "optimizer") for stage in "123"] + [("3", "all")] + [(stage, "recomputed") for stage in "0123"]
MANY = [
    "-".join(words)
    for words in itertools.product(("opt", "llama"), "0123", ("full", "lora"), ("", "tight"))
    if "-".join(words) not in FEW
]
FIGURES = {"loss", "grad_norm", "eval_loss", "eval_accuracy", "eval_token_accuracy", "eval_chosen_mean"}


def on_two_ranks(folder: Path, steps: int, cases: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    alone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # tests train in this process, too
    environment = {key: value for key, value in os.environ.items() if key not in alone} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.core.rank_worker", str(folder), str(steps), *cases],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def differences(one: Path, two: Path) -> dict[str, float]:
    """The largest difference of each figure over all lines."""
    found: dict[str, float] = {}
    for phase in ("sft", "reward"):
        lines = [list(read_metrics(folder / "run" / phase / "metrics.jsonl")) for folder in (one, two)]
        for a, b in zip(*lines, strict=True):
            assert a.keys() == b.keys()
            for name in FIGURES & a.keys():
                found[name] = max(found.get(name, 0.0), abs(a[name] - b[name]))
    return found


def compare(tmp_path: Path, steps: int, cases: list[str]) -> None:
    rank_worker.train(tmp_path / "one", steps, cases)
    on_two_ranks(tmp_path / "two", steps, cases)
    for case in cases:
        near(tmp_path / "one" / case, tmp_path / "two" / case)


def near(one: Path, two: Path) -> None:
    found = differences(one, two)
    print(two.name, {name: f"{value:.1e}" for name, value in sorted(found.items())})
    assert found.keys() == FIGURES
    assert max(found.values()) <= APART, (two.name, found)


def test_two_ranks_make_the_same_losses_as_one(tmp_path: Path) -> None:
    compare(tmp_path, 6, FEW)


@pytest.mark.slow
def test_adapted_experts_on_two_ranks(tmp_path: Path) -> None:
    compare(tmp_path, 6, ["mixtral-2-lora", "mixtral-3-lora-cut", "gpt-oss-3-lora-cut-recomputed"])


@pytest.mark.slow
def test_dropout_on_two_ranks_and_no_layer_is_left_out(tmp_path: Path) -> None:
    """With layers that each rank drops by itself, stage 3 would wait for ever and stages 1 and 2 mix gradients up."""
    cases = ["opt-2-full-dropped", "opt-3-full-dropped"]
    on_two_ranks(tmp_path, 6, cases)
    for case in cases:
        lines = list(read_metrics(tmp_path / case / "run" / "sft" / "metrics.jsonl"))
        assert lines[-1]["step"] == 6 and lines[-1]["eval_loss"] < lines[0]["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_stage_with_and_without_lora(tmp_path: Path, part: int) -> None:
    compare(tmp_path, 20, MANY[part::4])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_offload_and_recomputed_activations_change_nothing(tmp_path: Path, family: str, kind: str) -> None:
    """On one rank and on two, against the same stage without, on one rank."""
    same_as_plain(tmp_path, {f"{family}-{stage}-{kind}-{word}": f"{family}-{stage}-{kind}" for stage, word in LAYOUTS})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["opt-wide", "llama-wide"])
def test_offload_to_files_changes_nothing(tmp_path: Path, family: str, kind: str) -> None:
    lacks = extensions.missing_for_files()
    if lacks:
        pytest.skip(f"{lacks} is missing")
    plain = f"{family}-3-{kind}"
    same_as_plain(tmp_path, {f"{plain}-{words}": plain for words in ("files", "files-tight-recomputed")}, steps=10)
    for more in ("", "-tight-recomputed"):  # a file is memory that takes longer
        files, memory = (tmp_path / "one" / f"{plain}-{words}{more}" for words in ("files", "all"))
        rank_worker.train(tmp_path / "one", 10, [memory.name])
        assert not any(differences(files, memory).values())
    assert not list(tmp_path.glob("*/files/*"))


def same_as_plain(tmp_path: Path, cases: dict[str, str], steps: int = 20) -> None:
    rank_worker.train(tmp_path / "one", steps, sorted({*cases, *cases.values()}))
    on_two_ranks(tmp_path / "two", steps, list(cases))
    for case, plain in cases.items():
        near(tmp_path / "one" / plain, tmp_path / "one" / case)
        near(tmp_path / "one" / plain, tmp_path / "two" / case)
