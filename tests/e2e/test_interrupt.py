"""Ctrl-C and SIGTERM in the middle of training: a checkpoint first, then the end, and --resume goes on."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.e2e.conftest import changes, start, write_prompts


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_training_can_go_on(tmp_path, kind):
    write_prompts(tmp_path)
    process = start("sft", *changes(sft__max_steps="10000", sft__epochs="10000"), folder=tmp_path)
    metrics = tmp_path / "runs/tiny/sft/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or '"loss"' not in metrics.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "stopping: this step is finished and a checkpoint written; once more stops at once" in err
    told = re.search(r"step (\d+) of 10,000, a checkpoint is written; rlhf sft --resume goes on$", err.splitlines()[-1])
    assert told and err.splitlines()[-1].startswith("interrupted: asked to stop after step ")
    assert "Traceback" not in err
    assert sorted(path.name for path in (tmp_path / "runs/tiny").iterdir()) == [
        "data",
        "recipe.yaml",
        "run.json",
        "sft",
    ]
    assert sorted(path.name for path in (tmp_path / "runs/tiny/sft").iterdir()) == ["checkpoints", "metrics.jsonl"]
    checkpoints = [path.name for path in (tmp_path / "runs/tiny/sft/checkpoints").iterdir()]
    assert checkpoints == [f"step-{int(told[1]):08}"]
