"""The commands as a user types them. One small project is made once for all tests: ``project``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhfcli import cli

HERE = Path(__file__).parent
PROMPTS = [
    {"prompt": "What is the capital of France?", "accepted": ["The capital of France is Paris."], "skill": "facts"},
    {"prompt": "Hello!", "accepted": "Hello! How can I help you?", "skill": "greeting"},
    {"prompt": "What is your name?", "accepted": [], "skill": "self"},
]
SMALL = {
    "data.sources": "[{path: builtin:tiny/dialogues, limit: 150, phase: sft},"
    " {path: builtin:tiny/pairs, limit: 150, phase: reward}]",
    "data.validation": "0.1",
    "sft.max_steps": "6",
    "sft.batch_size": "16",
    "sft.lora.rank": "4",
    "sft.learning_rate": "3e-3",
    "reward.max_steps": "6",
    "reward.batch_size": "16",
    "reward.lora.rank": "4",
    "logging.every": "2",
    "eval.every": "4",
    "eval.prompts": "prompts.jsonl",
    "eval.pairs": "null",
    "eval.samples": "2",
    "chat.max_new_tokens": "12",
    "model.dtype": "fp32",
}


def changes(**more: str) -> list[str]:
    """The ``--set`` options of a small project; ``sft__epochs="2"`` is ``--set sft.epochs=2``."""
    settings = SMALL | {key.replace("__", "."): value for key, value in more.items()}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A folder with a finished run in it."""

    folder: Path
    made: Done
    network: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "tiny"


def environment(**more: str) -> dict[str, str]:
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # other tests train in this process
    outside = {key: value for key, value in os.environ.items() if key not in ranks}
    return {**outside, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1", **more}


def start(*arguments: str, folder: Path, **more: str) -> subprocess.Popen[str]:
    """Start ``rlhf`` in a process of its own."""
    command = [sys.executable, "-m", "rlhfcli", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment(**more), text=True, **pipes)


def listening(*processes: int) -> set[str]:
    """The addresses that some processes listen at, as ``/proc`` writes them: ``0100007F:1F90`` is 127.0.0.1:8080."""
    sockets = set()
    for process in processes:
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(handle.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1])
    return found


def write_prompts(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """``rlhf run`` on the embedded default, all of it, in a process whose network is watched."""
    folder = tmp_path_factory.mktemp("a project with späces")
    log = folder.parent / "network.log"
    write_prompts(folder)
    watched = {"PYTHONPATH": str(HERE / "guard"), "RLHF_TEST_NETWORK_LOG": str(log), "HF_HUB_OFFLINE": "0"}
    process = start("run", *changes(), folder=folder, **watched)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return Project(folder, Done(process.returncode, out, err), log)


@pytest.fixture
def rlhf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process, which has torch imported already."""

    def call(*arguments: str, folder: Path | None = None) -> Done:
        if folder is not None:
            monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        code = end.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return call
