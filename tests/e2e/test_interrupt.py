"""Ctrl-C in the middle of training."""

from __future__ import annotations

import signal
import time

import pytest

from tests.e2e.conftest import changes, start, write_prompts


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_training_leaves_nothing_half_made(tmp_path, kind):
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
    assert err.splitlines()[-1].endswith("interrupted")
    assert "Traceback" not in err
    assert sorted(path.name for path in (tmp_path / "runs/tiny").iterdir()) == [
        "data",
        "recipe.yaml",
        "run.json",
        "sft",
    ]
    assert [path.name for path in (tmp_path / "runs/tiny/sft").iterdir()] == ["metrics.jsonl"]
