"""Several ranks as a user starts them: what they make, what they say, and that none is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import changes, listening, start, write_prompts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
LONG = changes(sft__max_steps="10000", sft__epochs="10000", logging__every="1")


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """Rank to process number, of the ranks that a command has started so far."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        try:
            environment = Path(f"/proc/{child}/environ").read_text().split("\0")
        except OSError:  # gone meanwhile
            continue
        found |= {int(word.removeprefix("RANK=")): int(child) for word in environment if word.startswith("RANK=")}
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, process: subprocess.Popen[str], seconds: float = 120) -> float:
    began = time.monotonic()
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < began + seconds
        time.sleep(0.05)
    return time.monotonic() - began


def all_gone(pids: dict[int, int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids.values())


def started(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[int, int]]:
    """A long training on two ranks, as soon as both are there."""
    write_prompts(tmp_path)
    process = start("sft", "--ranks", "2", *arguments, *LONG, folder=tmp_path)
    wait_for(lambda: len(ranks_of(process)) == 2, process)
    return process, ranks_of(process)


def test_two_ranks_train_one_model(tmp_path):
    write_prompts(tmp_path)
    settings = changes(deepspeed__zero_stage="2", sft__max_steps="3")
    out, err = start("sft", "--ranks", "2", *settings, folder=tmp_path).communicate(timeout=200)
    assert out == ""
    assert err.count("recipe: tiny") == 1  # only the first rank talks
    assert "2 ranks × cpu" in err
    assert "Saved: runs/tiny/sft/final" in err
    run = tmp_path / "runs/tiny"
    assert sorted(path.name for path in run.iterdir()) == ["data", "recipe.yaml", "run.json", "sft"]
    assert sorted(path.name for path in (run / "sft").iterdir()) == ["final", "metrics.jsonl"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in (run / "sft/final").iterdir()
    }
    assert json.loads((run / "run.json").read_text())["parts"]["sft"]["steps"] == 3


def test_a_killed_rank_ends_the_run_and_is_named(tmp_path):
    process, ranks = started(tmp_path)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"loss"' in metrics.read_text(), process)
    assert {address.partition(":")[0] for address in listening(process.pid, *ranks.values())} == {"0100007F"}
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert all_gone(ranks, 0)
    assert process.returncode == 1
    assert "a rank has failed: rank 1 was killed (signal 9)\nUsually the machine ran out of memory" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs/tiny/sft/final").exists()


@pytest.mark.parametrize(
    "kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["ctrl-c", "terminate"]
)
def test_an_interrupted_command_leaves_no_rank(tmp_path, kind):
    process, ranks = started(tmp_path)
    wait_for((tmp_path / "runs/tiny/run.json").exists, process)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert all_gone(ranks, 0)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert err.count("interrupted") == 1
    assert "Traceback" not in err


def test_a_lost_connection_leaves_a_checkpoint(tmp_path):
    """The parent alone gets the signal; it hands it on."""
    process, ranks = started(tmp_path)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"loss"' in metrics.read_text(), process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert all_gone(ranks, 0) and "Traceback" not in err
    assert re.search(r"interrupted: asked to stop after step (\d+) of 10,000, a checkpoint is written", err)
    assert len(list((tmp_path / "runs/tiny/sft/checkpoints").glob("step-*/manifest.txt"))) == 1


def test_ranks_end_with_a_killed_parent(tmp_path):
    process, ranks = started(tmp_path)
    process.kill()
    process.communicate()
    assert all_gone(ranks)


@pytest.mark.slow
def test_a_parent_that_is_killed_while_they_train(tmp_path):
    process, ranks = started(tmp_path)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"loss"' in metrics.read_text(), process)
    process.kill()
    process.communicate()
    assert all_gone(ranks)


def test_a_user_error_is_shown_once(tmp_path):
    process = start("sft", "--ranks", "2", "--set", "sft.learning_rte=1", folder=tmp_path)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert err == (
        "recipe error: --set #1: sft.learning_rte: unknown key; did you mean sft.learning_rate?\n"
        "see: rlhf recipes show tiny\n"
    )


@pytest.mark.slow
def test_a_user_error_of_the_first_rank_ends_those_who_wait(tmp_path):
    settings = changes(data__sources="[{path: nowhere.jsonl}]")
    process = start("sft", "--ranks", "2", *settings, folder=tmp_path)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    assert err.count("nowhere.jsonl: ") == 1 and "data error: " in err
    assert "rank " not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_runs_at_once(tmp_path):
    write_prompts(tmp_path)
    both = [
        start(
            "run", "--ranks", "2", *changes(output_dir=name, sft__max_steps="3", reward__max_steps="3"), folder=tmp_path
        )
        for name in ("a", "b")
    ]
    for process in both:
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        assert err.count("All done in") == 1
    lines = [(tmp_path / name / "reward/metrics.jsonl").read_text().splitlines() for name in ("a", "b")]
    assert [json.loads(line).get("loss") for line in lines[0]] == [json.loads(line).get("loss") for line in lines[1]]
    assert all((tmp_path / name / "eval/reward.json").exists() for name in ("a", "b"))


@pytest.mark.slow
def test_two_nodes_that_are_both_here(tmp_path):
    write_prompts(tmp_path)
    nodes = [
        start(
            "sft", "--nnodes", "2", "--node-rank", str(number), "--main-address", "127.0.0.1:29871",
            *changes(sft__max_steps="3"), folder=tmp_path,
        )
        for number in (0, 1)
    ]  # fmt: skip
    told = [process.communicate(timeout=200)[1] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], told
    assert "Saved: runs/tiny/sft/final" in told[0]
    assert told[1] == ""


@pytest.mark.slow
def test_a_hostfile_with_this_machine_only(tmp_path):
    write_prompts(tmp_path)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    process = start("sft", "--hostfile", "hosts", *changes(sft__max_steps="3"), folder=tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "2 ranks × cpu" in err
    assert "Saved: runs/tiny/sft/final" in err


@pytest.mark.slow
def test_a_user_error_under_a_hostfile(tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    process = start("sft", "--hostfile", "hosts", *changes(data__sources="[{path: nowhere.jsonl}]"), folder=tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2, err
    assert err.count("data error: nowhere.jsonl: ") == 1
    assert "a rank has failed" not in err


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_told_once(tmp_path):
    write_prompts(tmp_path)
    settings = changes(sft__learning_rate="1e25", sft__max_grad_norm="1e20", sft__schedule__warmup_ratio="0")
    process = start("sft", "--ranks", "2", *settings, folder=tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert err.count("training stopped: rank ") == err.count(" is nan at step ") == 1
    assert "a rank has failed" not in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL], ids=["terminate", "kill"])
def test_a_hostfile_ends_with_everything_it_started(tmp_path, kind):
    write_prompts(tmp_path)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    process = start("sft", "--hostfile", "hosts", *LONG, folder=tmp_path)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"loss"' in metrics.read_text(), process)
    working = works_in(tmp_path)
    assert len(working) >= 4  # DeepSpeed's two, and the ranks
    process.send_signal(kind)
    process.wait(60)
    assert all_gone(working, 20)
    process.communicate(timeout=60)
    assert process.returncode == (130 if kind == signal.SIGTERM else -kind)


def works_in(folder: Path) -> dict[int, int]:
    """All processes that work in a folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if entry.readlink() == folder:
                found[int(entry.parent.name)] = int(entry.parent.name)
    return found
