"""``deepspeed.nvme``: offloaded tensors are in files. Needs libaio, and builds an extension of DeepSpeed once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.core.engine import nvme_offload
from rlhfcli.core.engine.nvme_offload import OffloadFiles, parameters_in_memory
from rlhfcli.core.parallel import extensions
from rlhfcli.core.training import parts, phases
from rlhfcli.errors import OutputError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import DeepspeedSection, ModelSection
from tests.core import families
from tests.core.checkpoints.test_manager import lines, resumed, same, stopped
from tests.core.resume_worker import settings
from tests.core.training.test_phases import Tokenizer, _project

DISTUTILS = pytest.mark.filterwarnings("ignore:.*[Dd]istutils")  # DeepSpeed looks for a compiler with it
# holds a folder until its standard input ends, or it is killed
HOLDER = """
import sys
from rlhfcli.core.engine.nvme_offload import _folder
from pathlib import Path
folder, lock = _folder(Path(sys.argv[1]))
print(folder.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder for them."""
    lacks = extensions.missing_for_files()
    if lacks:
        pytest.skip(f"{lacks} is missing")
    return tmp_path / "nvme"


@pytest.mark.slow
@DISTUTILS
@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_what_lies_in_files_trains_and_continues_like_what_is_in_memory(
    tmp_path: Path, files: Path, offload: str
) -> None:
    def project(name: str, **more: Any) -> parts.PhaseInputs:
        layout = settings(3, max_steps=6, learning_rate=1e-4) | {"deepspeed": {"zero_stage": 3} | more}
        return _project(tmp_path / name, "llama-wide", **layout)

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
@pytest.mark.parametrize(
    ("offload", "kinds"), [("optimizer", {"states"}), ("all", {"states", "parameters"})], ids=["optimizer", "all"]
)
def test_it_is_in_the_folder_while_training(
    tmp_path: Path, files: Path, monkeypatch: Any, offload: str, kinds: set[str]
) -> None:
    seen: set[str] = set()
    close = phases.Engine.close

    def look(engine: phases.Engine, *, gather: bool = True) -> None:
        seen.update("states" for _ in files.rglob("exp_avg_sq-*"))
        seen.update("parameters" for _ in files.rglob("*_param.tensor.swp"))
        close(engine, gather=gather)

    monkeypatch.setattr(phases.Engine, "close", look)
    deepspeed = {"zero_stage": 3, "offload": offload, "nvme": str(files)}
    phases.train_sft(_project(tmp_path, "llama-wide", phase={"max_steps": 2}, deepspeed=deepspeed))
    assert seen == kinds
    assert list(files.iterdir()) == []


def test_without_libaio_it_is_reported_before_anything_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "missing_for_files", lambda: "libaio with its headers")
    deepspeed = {"zero_stage": 3, "offload": "optimizer", "nvme": str(tmp_path / "nvme")}
    with pytest.raises(extensions.UserError) as caught:
        phases.train_sft(_project(tmp_path, deepspeed=deepspeed))
    assert str(caught.value) == (
        "deepspeed.nvme needs libaio with its headers\n"
        "apt-get install libaio-dev g++ ninja-build; without nvme, memory is used."
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "prepare_files", lambda: None)
    (tmp_path / "file").touch()
    section = DeepspeedSection(zero_stage=3, offload="optimizer", nvme=str(tmp_path / "file" / "x"))
    with pytest.raises(OutputError, match=r"the folder of deepspeed\.nvme cannot be written: Not a directory"):
        OffloadFiles(section, lambda: (1, 1), Silent())


def test_what_a_killed_process_has_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    held = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    folders = [Path(process.stdout.readline().strip()) for process in held if process.stdout]
    assert all(folder.is_dir() for folder in folders)
    (folders[0] / "0_param.tensor.swp").write_bytes(b"x")
    held[0].kill()
    held[0].wait()
    folder, lock = nvme_offload._folder(tmp_path)
    assert {*tmp_path.iterdir()} == {folders[1], Path(folder.name)}
    for process in held:
        process.communicate()
    lock.close()
    folder.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_how_much_has_to_be_in_memory(tmp_path: Path) -> None:
    """The embedding of Llama is 128 x 512, a matrix of its MLP 512 x 1,024; a layer has seven matrices."""
    source = tmp_path / "model"
    families.causal_lm("llama-wide").save_pretrained(source)
    for recomputed, count in ((False, 5), (True, 9)):
        section = ModelSection(name=str(source), gradient_checkpointing=recomputed)
        for kind in (parts.AutoModelForCausalLM, parts.AutoModelForSequenceClassification):
            assert parameters_in_memory(kind, str(source), Tokenizer(), section) == (512 * 1024, count)  # type: ignore[arg-type]
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"vocab_size": 2000}))
    assert parameters_in_memory(parts.AutoModelForCausalLM, str(source), Tokenizer(), section)[0] == 2000 * 512  # type: ignore[arg-type]
