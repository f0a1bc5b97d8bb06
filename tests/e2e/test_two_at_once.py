"""Two commands in one run folder at the same time: one wins, the other says who holds it, and nothing is mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Project, changes, environment, write_prompts

NAMESPACE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]  # a network of its own
LONG = changes(sft__max_steps="30", reward__max_steps="30")
# what is there before → the two commands
PAIRS = [
    ("nothing", "sft", "sft"),
    ("nothing", "prepare-data", "prepare-data"),
    ("nothing", "run", "sft"),
    ("all", "sft --overwrite", "reward --overwrite"),
    ("all", "sft --overwrite", "prepare-data --overwrite"),
    ("all", "reward --overwrite", "prepare-data --overwrite"),
    ("all", "reward --overwrite", "eval"),
    ("stopped", "sft --resume", "sft --resume"),
    ("stopped", "sft --resume", "sft --overwrite"),
    ("stopped", "run --resume", "prepare-data --overwrite"),
]


def begin(folder: Path, command: str, mark: int, prefix: list[str]) -> subprocess.Popen[str]:
    """Start a command whose recipe can be told from the other's by a setting that changes nothing else."""
    verb, *options = command.split()
    typed = [sys.executable, "-m", "rlhfcli", verb, *LONG, "--set", f"chat.top_k={mark}", *options]
    return subprocess.Popen(
        [*prefix, *typed],
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def metrics(run: Path, phase: str) -> list[int]:
    file = run / phase / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def check(folder: Path, pair: tuple[str, str], prefix: list[str]) -> None:
    run = folder / "runs" / "tiny"
    both = [begin(folder, command, mark, prefix) for mark, command in enumerate(pair, 1)]
    ends = [(process, *process.communicate(timeout=600)) for process in both]
    said = "\n".join(err for _, _, err in ends)
    assert sorted(process.returncode for process, _, _ in ends) == [0, 2], said
    assert "Traceback" not in said
    winner = next(n for n, (process, _, _) in enumerate(ends) if process.returncode == 0)
    (_, _, err), holder = ends[1 - winner], ends[winner][0]
    assert "output error: runs/tiny: in use by rlhf " + pair[winner].split()[0] in err, err
    assert f"(process {holder.pid}, since " in err, err
    assert yaml.safe_load((run / "recipe.yaml").read_text())["chat"]["top_k"] == winner + 1
    assert f"chat.top_k={2 - winner}" not in (run / "run.json").read_text()
    for phase in ("sft", "reward"):
        steps = metrics(run, phase)
        assert steps == sorted(steps), steps  # no line of another training in between
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose fine-tuning was killed after a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    write_prompts(folder)
    process = begin(folder, "sft --set checkpoint.every=5 --set checkpoint.keep=1", 0, [])
    deadline = time.monotonic() + 200
    while not list(folder.glob("runs/tiny/sft/checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / "runs/tiny/.lock.json").exists()  # the next one has to take the lock of a dead process
    return folder


def state(name: str, folder: Path, project: Project, stopped: Path) -> None:
    write_prompts(folder)
    if name != "nothing":
        shutil.copytree((project.folder if name == "all" else stopped) / "runs", folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "first", "second"), PAIRS)
def test_one_of_two_commands_wins(
    tmp_path: Path, project: Project, stopped: Path, before: str, first: str, second: str
) -> None:
    state(before, tmp_path, project, stopped)
    check(tmp_path, (first, second), [])


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or None in map(shutil.which, ("unshare", "ip")), reason="needs root for a network namespace"
)
@pytest.mark.parametrize(("before", "first", "second"), PAIRS[:1] + PAIRS[6:8])
def test_one_of_two_commands_in_networks_of_their_own_wins(
    tmp_path: Path, project: Project, stopped: Path, before: str, first: str, second: str
) -> None:
    state(before, tmp_path, project, stopped)
    check(tmp_path, (first, second), NAMESPACE)
