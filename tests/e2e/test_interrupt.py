"""Ctrl-C, SIGTERM and SIGHUP in the middle of training: a checkpoint first, then the end, and --resume goes on."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.e2e.conftest import changes, listening, start, write_prompts

# of another program, inside of which the training runs
SOMEBODYS_JOB = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "PMI_RANK": "2",
    "PMI_SIZE": "4", "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "RANK": "2", "LOCAL_RANK": "2",
}  # fmt: skip


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminate", "hang-up"])
def test_an_interrupted_training_can_go_on(tmp_path, kind):
    write_prompts(tmp_path)
    process = start("sft", *changes(sft__max_steps="10000", sft__epochs="10000"), folder=tmp_path, **SOMEBODYS_JOB)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or '"loss"' not in metrics.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not listening(process.pid)  # one process opens no port
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "stopping after this step, with a checkpoint; the same again stops at once" in err
    told = re.search(
        r"step (\d+) of 10,000, a checkpoint is written; rlhf sft --resume continues$", err.splitlines()[-1]
    )
    assert told and err.splitlines()[-1].startswith("interrupted: asked to stop after step ")
    assert "Traceback" not in err
    assert err.startswith("OMPI_COMM_WORLD_SIZE=4: MPI or Slurm has started 4 processes. rlhf does not join them")
    assert sorted(path.name for path in (tmp_path / "runs/tiny").iterdir()) == [
        "data",
        "recipe.yaml",
        "run.json",
        "sft",
    ]
    assert sorted(path.name for path in (tmp_path / "runs/tiny/sft").iterdir()) == ["checkpoints", "metrics.jsonl"]
    checkpoints = [path.name for path in (tmp_path / "runs/tiny/sft/checkpoints").iterdir()]
    assert checkpoints == [f"step-{int(told[1]):08}"]
