"""``deepspeed.nvme``: optimizer states in files. Needs libaio, and builds an extension of DeepSpeed's once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhfcli.core import extensions, phases
from tests.core import families
from tests.core.resume_worker import settings
from tests.core.test_phases import _project
from tests.core.test_resume import lines, resumed, same, stopped

DISTUTILS = pytest.mark.filterwarnings("ignore:.*[Dd]istutils")  # DeepSpeed looks for a compiler with it


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for them; the models are large enough that DeepSpeed does not leave them in memory."""
    lacks = extensions.missing_for_files()
    if lacks:
        pytest.skip(f"{lacks} is missing")
    monkeypatch.setattr(families, "_NEW", families._NEW | {"hidden_size": 256, "intermediate_size": 1024})
    return tmp_path / "nvme"


@pytest.mark.slow
@DISTUTILS
@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_states_in_files_train_and_go_on_like_those_in_memory(tmp_path: Path, files: Path, offload: str) -> None:
    def project(name: str, **more: Any) -> phases.Project:
        layout = settings(3, max_steps=6, learning_rate=1e-3) | {"deepspeed": {"zero_stage": 3} | more}
        return _project(tmp_path / name, "llama", **layout)

    whole, parted = (project(name, offload=offload, nvme=str(files)) for name in ("whole", "parted"))
    plain = project("plain")
    for phase, train in (("sft", phases.train_sft), ("reward", phases.train_reward)):
        for each in (plain, whole):
            train(each)
        stopped(parted, phase, 3)
        resumed(parted, phase)
        same(whole, parted, phase)
        for a, b in zip(lines(plain, phase), lines(whole, phase), strict=True):
            assert a.pop("grad_norm", 0.0) == pytest.approx(b.pop("grad_norm", 0.0), rel=1e-3)
            assert a == pytest.approx(b, abs=1e-4)
    assert list(files.iterdir()) == []


@pytest.mark.slow
@DISTUTILS
def test_the_states_are_in_the_folder_while_training(tmp_path: Path, files: Path, monkeypatch: Any) -> None:
    seen: set[str] = set()
    close = phases.Engine.close

    def look(engine: phases.Engine, *, whole: bool = True) -> None:
        seen.update(file.name.split("-")[0] for file in files.rglob("exp_avg*"))
        close(engine, whole=whole)

    monkeypatch.setattr(phases.Engine, "close", look)
    deepspeed = {"zero_stage": 3, "offload": "optimizer", "nvme": str(files)}
    phases.train_sft(_project(tmp_path, "llama", phase={"max_steps": 2}, deepspeed=deepspeed))
    assert seen == {"exp_avg", "exp_avg_sq"}


def test_without_libaio_it_is_said_before_anything_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "missing_for_files", lambda: "libaio with its headers")
    deepspeed = {"zero_stage": 3, "offload": "optimizer", "nvme": str(tmp_path / "nvme")}
    with pytest.raises(extensions.UserError) as caught:
        phases.train_sft(_project(tmp_path, deepspeed=deepspeed))
    assert str(caught.value) == (
        "deepspeed.nvme needs libaio with its headers\n"
        "apt-get install libaio-dev g++ ninja-build; without nvme, memory is used."
    )
