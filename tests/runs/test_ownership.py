"""--overwrite replaces only files that this program wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfcli.data.preparation.overlap import PROMPTS
from rlhfcli.data.store.prepared import REJECTED
from rlhfcli.data.store.split import PARTS
from rlhfcli.data.store.writers import file_name
from rlhfcli.errors import OutputError
from rlhfcli.files.run_layout import DATA_MANIFEST as MANIFEST
from rlhfcli.files.run_layout import PHASES
from rlhfcli.runs.ownership import files_of_others, refuse_other_data, refuse_other_folder, refuse_other_model

Refusal = Callable[[Path], None]
_FILES = {MANIFEST, REJECTED, PROMPTS, *(file_name(phase, part) for phase in PHASES for part in PARTS)}
MODEL = {
    "B2SUMS": "0  config.json\n0  model.safetensors\n",
    "config.json": "",
    "model.safetensors": "",
    "README.md": "",
}
ADAPTER = {"adapter/B2SUMS": "0  adapter_config.json\n", "adapter/adapter_config.json": ""}
OURS: list[tuple[Refusal, dict[str, str]]] = [
    (refuse_other_folder, {}),
    (refuse_other_folder, {"run.json": "", "thesis.txt": "", "mine/x": ""}),  # nothing of it is touched
    (refuse_other_folder, {".lock": "", ".lock.json": "", ".run.json.partial-12ab": ""}),  # a command has just begun
    (refuse_other_model, {}),
    (refuse_other_model, MODEL),
    (refuse_other_model, MODEL | ADAPTER | {".DS_Store": ""}),
    (refuse_other_data, {}),
    (refuse_other_data, dict.fromkeys(_FILES, "")),
]
THEIRS: list[tuple[Refusal, dict[str, str], str]] = [
    (refuse_other_folder, {"thesis.txt": ""}, "it has files (thesis.txt), but no run.json"),
    (
        refuse_other_folder,
        {"recipe.yaml": "", "data/mine.jsonl": ""},
        "it has files (data, recipe.yaml), but no run.json",
    ),
    (refuse_other_folder, {name: "" for name in "abcde"}, "it has files (a, b, c …), but no run.json"),
    (refuse_other_model, {"thesis.txt": ""}, "holds something other than a model that rlhf has made: thesis.txt"),
    (
        refuse_other_model,
        {k: v for k, v in MODEL.items() if k != "B2SUMS"},
        "README.md, config.json, model.safetensors",
    ),
    (
        refuse_other_model,
        MODEL | {"thesis.txt": ""},
        "holds something other than a model that rlhf has made: thesis.txt",
    ),
    (refuse_other_model, MODEL | ADAPTER | {"adapter/notes.md": ""}, "rlhf has made: adapter"),
    (refuse_other_model, MODEL | {"adapter/thesis.txt": ""}, "rlhf has made: adapter"),
    (refuse_other_data, {"mine.jsonl": ""}, "holds something other than prepared data: mine.jsonl"),
    (refuse_other_data, {"manifest.json": '{"name": "my app"}'}, "something other than prepared data: manifest.json"),
    (refuse_other_data, dict.fromkeys(_FILES, "") | {"own.arrow": ""}, "prepared data: own.arrow"),
]


def make(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("refuse", "files"), OURS)
def test_what_is_ours_may_be_replaced(tmp_path: Path, refuse: Refusal, files: dict[str, str]) -> None:
    refuse(make(tmp_path / "x", files))
    refuse(tmp_path / "none")


@pytest.mark.parametrize(("refuse", "files", "said"), THEIRS)
def test_what_is_theirs_is_named(tmp_path: Path, refuse: Refusal, files: dict[str, str], said: str) -> None:
    folder = make(tmp_path / "x", files)
    with pytest.raises(OutputError) as caught:
        refuse(folder)
    assert said in caught.value.what and caught.value.where == str(folder)


@pytest.mark.parametrize("refuse", [refuse_other_folder, refuse_other_model, refuse_other_data])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, refuse: Refusal) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputError):
        refuse(tmp_path / "x")


def test_sums_that_cannot_be_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "x", MODEL)
    (folder / "B2SUMS").write_bytes(b"\xff\xfe")
    assert "config.json" in files_of_others(folder)
