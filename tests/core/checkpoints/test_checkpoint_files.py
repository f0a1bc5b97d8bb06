"""A checkpoint that is not as it was written is not used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.checkpoint_files import Damaged, Progress, newest, prune, remove_all, save
from rlhfcli.errors import OutputError
from rlhfcli.files.checksums import text_hash
from rlhfcli.files.run_layout import CHECKPOINT_MANIFEST as MANIFEST
from rlhfcli.files.run_layout import list_checkpoints as folders

TENSORS = {f"weight:layer.{k}": torch.arange(24.0).reshape(4, 6) + k for k in range(5)}
PROGRESS = Progress(7, 1234, 5.5, {"loss": 1.5}, 3, {"eval_loss": 2.0})


def write(parent, step=7):
    progress = Progress(step, PROGRESS.tokens, PROGRESS.seconds, PROGRESS.window, PROGRESS.metrics, PROGRESS.figures)
    random = {"0:cpu": torch.get_rng_state(), "1:cpu": torch.zeros(3, dtype=torch.uint8)}
    return save(parent, iter(TENSORS.items()), random, progress, {"seed": 1}, sum(t.nbytes for t in TENSORS.values()))


def test_what_is_read_is_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_SHARD", 200)  # several files
    folder = write(tmp_path / "a")
    assert folder.name == "step-00000007" and len(list(folder.glob("state-*"))) == 2
    found = newest(tmp_path / "a", pytest.fail)
    assert found.progress == PROGRESS and found.manifest["settings"] == {"seed": 1}
    for key, tensor in TENSORS.items():
        assert torch.equal(found.read(key), tensor)
    assert torch.equal(found.random_state(0)["cpu"], torch.get_rng_state())
    assert found.random_state(1)["cpu"].tolist() == [0, 0, 0] and found.random_state(2) == {}
    with pytest.raises(Damaged, match="holds no weight:other"):
        found.read("weight:other")


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (
            {"format": 2},
            OutputError,
            "wrote this checkpoint, in format 2: this one reads format 1",
        ),
        ({"progress": {"step": 7, "epoch": 1}}, OutputError, "in format 1: this one does not know epoch\n"),
        ({"progress": {"tokens": 7}}, Damaged, "its manifest names no step"),
        ({"tensors": []}, Damaged, "its manifest lists no tensors or no settings"),
        ({"files": []}, Damaged, "its manifest cannot be read"),
    ],
)
def test_a_manifest_that_this_version_does_not_know(tmp_path, change, kind, told):
    folder = write(tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text().partition("\n")[2])
    assert manifest["format"] == 1
    rewrite(folder, manifest | change)
    with pytest.raises(kind, match=re.escape(told)):
        checkpoint_files.Checkpoint(folder)
    assert folder.exists()
    rewrite(folder, {key: value for key, value in manifest.items() if key != "format"})  # as the first version did
    assert checkpoint_files.Checkpoint(folder).progress == PROGRESS


def rewrite(folder, manifest):
    text = json.dumps(manifest)
    (folder / MANIFEST).write_text(f"{text_hash(text)}\n{text}")


RANK = """
import os, sys
import torch.distributed
from pathlib import Path
from types import SimpleNamespace
from rlhfcli.core.checkpoints.manager import Checkpoints
from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.tasks.sft import SftTask
from rlhfcli.errors import OutputError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import Recipe

recipe = Recipe.model_validate({"output_dir": "x", "model": {"name": "x"}, "data": {"sources": [{"path": "x"}]}})
for case in sys.argv[2:]:
    folder = Path(sys.argv[1]) / case / os.environ["RANK"]
    checkpoints = Checkpoints(
        folder / "sft" / "checkpoints", recipe.checkpoint, {}, SftTask, TrainingSession(resume=True), Silent()
    )
    try:
        found = checkpoints._newest()
        said = found and str(found.progress.step)
    except OutputError as error:
        said = error.what
    Path(f"{folder}.said").write_text(f"{said}")
torch.distributed.barrier()
torch.distributed.destroy_process_group()  # a group that is left to the interpreter's end may abort it
"""


def test_the_first_rank_decides_which_checkpoint_is_resumed(tmp_path):
    """Each rank sees a disk of its own here, as with one that shows a file only in part."""
    cases = {"same": None, "second": "1", "first": "0", "none": None}
    for case, broken in cases.items():
        for number in "01" if case != "none" else "":
            for step in (2, 4):
                folder = write(tmp_path / case / number / "sft" / "checkpoints", step)
                file = next(folder.glob("state-*"))
            if number == broken:
                file.write_bytes(file.read_bytes()[:-9])
        (tmp_path / case).mkdir(exist_ok=True)
    (tmp_path / "rank.py").write_text(RANK)
    alone = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {key: value for key, value in os.environ.items() if key not in alone} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "rank.py"),
         str(tmp_path), *cases],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {case: [(tmp_path / case / f"{number}.said").read_text() for number in "01"] for case in cases}
    lost = "rank 1 does not see the checkpoint that the first rank resumes: state-00001.safetensors has another size"
    assert said == {"same": ["4", "4"], "second": ["4", lost], "first": ["2", "2"], "none": ["None", "None"]}


def test_all_files_get_the_users_mode(tmp_path):
    folder = write(tmp_path)
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_only_checkpoints_are_removed(tmp_path):
    write(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / ".step-00000009.partial-12ab").mkdir()
    (tmp_path / "checkpoints" / "mine").mkdir()
    (tmp_path / "checkpoints" / "step-x").touch()
    remove_all(tmp_path / "checkpoints")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["mine", "step-x"]
    write(tmp_path / "others")
    remove_all(tmp_path / "others")
    assert not (tmp_path / "others").exists()
    remove_all(tmp_path / "none")


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_any_changed_byte_is_noticed(tmp_path, times):
    often = settings(max_examples=250 * times, deadline=None, database=None)
    often(given(st.data())(lambda data: broken_and_noticed(tmp_path / "checkpoints", data)))()


def broken_and_noticed(parent, data):
    shutil.rmtree(parent, ignore_errors=True)
    write(parent, 1)
    folder = write(parent, 2)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(file.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "append", "remove"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "remove":
        file.unlink()
    else:
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        content = content[:at] if kind == "cut" else content + b"x" if kind == "append" else content
        file.write_bytes(content)
    warnings = []
    assert newest(parent, warnings.append).progress.step == 1
    assert len(warnings) == 1 and "step-00000002 is damaged and is skipped" in warnings[0]


def test_a_folder_without_manifest_is_skipped(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    warnings = []
    assert newest(tmp_path, warnings.append) is None and "manifest.txt cannot be read" in warnings[0]


def test_old_ones_go(tmp_path):
    kept = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    (tmp_path / ".step-00000005.partial-123").mkdir()
    prune(tmp_path, 2)
    assert folders(tmp_path) == kept[2:]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [folder.name for folder in folders(tmp_path)]


@pytest.mark.parametrize("best", [1, 2, 4])
def test_the_best_one_stays(tmp_path, best):
    kept = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    prune(tmp_path, 1, best)
    assert folders(tmp_path) == sorted({kept[best - 1], kept[3]})


def test_without_room_nothing_is_begun(tmp_path, monkeypatch):
    kept = write(tmp_path, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda path: usage(10, 10, 10))
    with pytest.raises(OutputError, match=r"a checkpoint needs 1.05 MB, and 10 bytes are free") as caught:
        write(tmp_path, 2)
    assert caught.value.hint.startswith(f"{kept.name} is intact: make room and continue from it with --resume")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "new", 2)
    assert caught.value.hint == "Make room, or put output_dir on another disk; there is no checkpoint yet."
    assert folders(tmp_path) == [kept] and newest(tmp_path, pytest.fail).progress.step == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_breaks_off_leaves_nothing(tmp_path, monkeypatch, error):
    kept = write(tmp_path, 1)

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoint_files, "sync", fail)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [kept]
