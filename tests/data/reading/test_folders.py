"""Which files of a folder are read: names of splits, configurations, and what is left alone."""

from __future__ import annotations

import json
import os

import pytest
from datasets import Dataset, DatasetDict

from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.sources.evaluation_rows import read_pairs
from rlhfcli.data.sources.sources import open_source
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import SourceSection
from tests.data.conftest import pair
from tests.data.preparation.test_prepare import Notes

HUB = ["train_prefs", "train_sft", "train_gen", "test_prefs", "test_sft"]
HUB = [f"data/{name}@" for name in HUB]
TWO = ["main/train@", "main/test@", "hard/train@"]
README = "---\nlicense: mit\nconfigs:\n{}---\nText\n"
MAIN = README.format(
    "- config_name: main\n  data_files:\n"
    "  - split: train\n    path: main/train-*\n  - split: test\n    path: main/test*\n"
    "- config_name: hard\n  data_files: hard/*\n"
)
NAMED = README.format("- config_name: default\n  data_files:\n    pairs: [x/a*, 'y/**']\n    test: ./z.jsonl\n")
FOLDERS = README.format("- config_name: a\n  data_dir: one\n- config_name: b\n  data_dir: two\n  default: true\n")
# In these names @ stands for -00000-of-00001.jsonl.
FOUND = {  # the files of a folder, what the recipe says → the files that are read
    "no splits": (["a.jsonl", "b/c.jsonl"], {}, ["a.jsonl", "b/c.jsonl"]),
    "at the end": (["ships_test.jsonl", "ships_train.jsonl"], {}, ["ships_train.jsonl"]),
    "behind a full stop": (["ships.test.jsonl", "ships.train.jsonl"], {}, ["ships.train.jsonl"]),
    "training, testing": (["testing.jsonl", "training.jsonl"], {}, ["training.jsonl"]),
    "training, test": (["test.jsonl", "training.jsonl"], {"split": "train"}, ["training.jsonl"]),
    "with numbers": (["test1.jsonl", "train1.jsonl", "train2.jsonl"], {}, ["train1.jsonl", "train2.jsonl"]),
    "in the middle": (["ships_test_en.jsonl", "ships_train_en.jsonl"], {}, ["ships_train_en.jsonl"]),
    "a word that means something else": (
        ["software-dev-chats.jsonl", "x.jsonl"],
        {},
        ["software-dev-chats.jsonl", "x.jsonl"],
    ),
    "folders": (["test/0.jsonl", "train/0.jsonl"], {}, ["train/0.jsonl"]),
    "other words": (["train.jsonl", "dev.jsonl"], {"split": "validation"}, ["dev.jsonl"]),
    "no train, but plain files": (["ships.jsonl", "ships_test.jsonl"], {}, ["ships.jsonl"]),
    "shards of one name": (
        [f"pairs-0000{k}-of-00002.jsonl" for k in (0, 1)],
        {},
        ["pairs-00000-of-00002.jsonl", "pairs-00001-of-00002.jsonl"],
    ),
    "shards of one name, and a test": (["pairs@", "test.jsonl"], {}, ["pairs@"]),
    "a split with a suffix": (HUB, {"split": "train_prefs"}, ["data/train_prefs@"]),
    "the catalogue's": (HUB, {"format": "HuggingFaceH4/ultrafeedback_binarized"}, ["data/train_prefs@"]),
    "the recipe's before the catalogue's": (
        HUB,
        {"format": "HuggingFaceH4/ultrafeedback_binarized", "split": "test_sft"},
        ["data/test_sft@"],
    ),
    "the only one with the word": (["data/train_x@", "data/test_x@"], {}, ["data/train_x@"]),
    "a name of one file": (["train_prefs.jsonl", "train_sft.jsonl"], {"split": "train_sft"}, ["train_sft.jsonl"]),
    "of the hub's": (["data/filtered@", "data/raw@"], {"split": "raw"}, ["data/raw@"]),
    "folders for configurations": (TWO, {"subset": "main"}, ["main/train@"]),
    "all of them": (TWO, {}, ["hard/train@", "main/train@"]),
    "the folder of the catalogue": (
        ["preference/train.jsonl", "train.jsonl"],
        {"format": "nvidia/HelpSteer2"},
        ["preference/train.jsonl"],
    ),
    "README": ([*TWO, ("README.md", MAIN)], {"subset": "main"}, ["main/train@"]),
    "README, a split": ([*TWO, ("README.md", MAIN)], {"subset": "MAIN", "split": "test"}, ["main/test@"]),
    "README, plain patterns": ([*TWO, ("README.md", MAIN)], {"subset": "hard"}, ["hard/train@"]),
    "README, names of its own": (
        ["x/a1.jsonl", "y/q/b.jsonl", "z.jsonl", "w.jsonl", ("README.md", NAMED)],
        {},
        ["x/a1.jsonl", "y/q/b.jsonl"],
    ),
    "README, folders": (["one/a.jsonl", "two/b.jsonl", ("README.md", FOLDERS)], {}, ["two/b.jsonl"]),
    "README, nothing of it here": (["a.jsonl", ("README.md", MAIN)], {}, ["a.jsonl"]),
    "README that is broken": (["a.jsonl", ("README.md", "---\nconfigs: [\n---\n")], {}, ["a.jsonl"]),
    "hidden": (
        ["a.jsonl", "._a.jsonl", "__MACOSX/._a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", ".cache/x/b.jsonl"],
        {},
        ["a.jsonl"],
    ),
}
REFUSED = {  # the files of a folder, what the recipe says → what is said
    "no such split": (
        ["train.jsonl", "dev.jsonl"],
        {"split": "test"},
        ["there is no split 'test' here", "name: train, validation"],
    ),
    "a slip": (HUB, {"split": "train_pref"}, ["there is no split 'train_pref' here; did you mean train_prefs?"]),
    "no splits": (["a.jsonl", "b.jsonl"], {"split": "test"}, ["no split 'test' here", "leave split out"]),
    "a part": (["train.jsonl"], {"split": "train[:10]"}, ["no split 'train[:10]'", "use limit"]),
    "several with the word": (
        HUB,
        {},
        ["name the splits test_prefs, test_sft, train_gen, train_prefs, train_sft, and none is", "3.split=test_prefs"],
    ),
    "of the hub's": (["data/filtered@", "data/raw@"], {}, ["the splits filtered, raw", "pattern takes other files"]),
    "only a test": (["test.jsonl"], {}, ["its files name the split test, and none is called train"]),
    "no such folder": (TWO, {"subset": "mian"}, ["there is no configuration 'mian' here", "Its folders: hard, main."]),
    "no folders": (["a.jsonl"], {"subset": "main"}, ["there is no configuration 'main' here", "leave subset out"]),
    "several in the README": (
        [*TWO, ("README.md", MAIN)],
        {},
        ["README.md: the data set has the configurations main, hard", "--set data.sources.3.subset=main"],
    ),
    "none of the README": (
        [*TWO, ("README.md", MAIN)],
        {"subset": "hrad"},
        ["no configuration 'hrad' here: the data set has the", "subset=hard"],
    ),
    "a split that the README leaves out": (
        ["main/train@", "main/dev@", "hard/x@", ("README.md", MAIN)],
        {"subset": "main", "split": "validation"},
        ["README.md: there is no split 'validation' here", "Its configs name: train."],
    ),
    "no usual split in the README": (
        ["z.jsonl", "train.jsonl", ("README.md", NAMED)],
        {},
        ["README.md: its configs name the split test, and none is called train"],
    ),
    "hidden only": (["._a.jsonl"], {}, ["the folder holds no data files but hidden ones (._a.jsonl)"]),
}


def whole(name):
    return name.replace("@", "-00000-of-00001.jsonl")


def fill(folder, files):
    for file in files:
        name, text = file if isinstance(file, tuple) else (whole(file), json.dumps({"name": file}) + "\n")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(path, **more):
    streams = open_source(SourceSection(path=str(path), **more), seed=1, number=3)
    return [row["name"] for stream in streams for row, _ in stream.rows], streams[0].note


@pytest.mark.parametrize(("files", "asked", "expected"), FOUND.values(), ids=FOUND.keys())
def test_the_files_that_are_read(tmp_path, files, asked, expected):
    fill(tmp_path, files)
    found, note = read(tmp_path, **asked)
    assert found == expected
    alone = [name for name in files if isinstance(name, str) and name not in expected]
    assert (f"reading {whole(expected[0])}" in note and "left alone: " in note) if alone else note == ""


@pytest.mark.parametrize(("files", "asked", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_there_is_named_with_the_choices(tmp_path, files, asked, said):
    fill(tmp_path, files)
    with pytest.raises(DataError) as caught:
        read(tmp_path, **asked)
    for text in (str(tmp_path), *said):
        assert text in str(caught.value)


def test_the_splits_of_save_to_disk(tmp_path):
    splits = {name: Dataset.from_list([{"name": name}] * 2) for name in ("english", "german")}
    DatasetDict(splits).save_to_disk(tmp_path / "languages")
    assert read(tmp_path / "languages", split="german")[0] == ["german"] * 2
    with pytest.raises(DataError, match="the splits english, german, and none is called train"):
        read(tmp_path / "languages")
    with pytest.raises(DataError, match="no split 'gremna' here; did you mean german"):
        read(tmp_path / "languages", split="gremna")
    DatasetDict({"train": splits["german"]}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one")[0] == ["german"] * 2


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    fill(tmp_path, ["a.jsonl"])
    (tmp_path / "b.jsonl").symlink_to("nowhere.jsonl")
    with pytest.raises(DataError, match=r"b.jsonl: the file cannot be read: No such file"):
        read(tmp_path)


FILES = {
    "its own": ("test.jsonl", {"split": "test"}, None),
    "train": ("a.jsonl", {"split": "train"}, None),
    "another": ("test.jsonl", {"split": "train"}, "test.jsonl: this file is not of the split 'train'"),
    "none": ("a.jsonl", {"split": "test"}, "a.jsonl: this file is not of the split 'test'"),
    "a configuration": ("a.jsonl", {"subset": "main"}, "a.jsonl: a file has no configuration 'main'"),
    "a pattern": ("*st.jsonl", {"split": "test"}, None),
    "another of a pattern": ("*.jsonl", {"split": "dev"}, "there is no split 'dev' here"),
    "a configuration of a pattern": ("*.jsonl", {"subset": "main"}, "a pattern has no configuration 'main'"),
}


@pytest.mark.parametrize(("name", "asked", "said"), FILES.values(), ids=FILES.keys())
def test_splits_of_files_and_patterns(tmp_path, name, asked, said):
    folder = tmp_path / "train"  # a word in the folders above says nothing
    fill(folder, ["a.jsonl", "test.jsonl"])
    if said is None:
        assert read(folder / name, **asked)[0] == ["a.jsonl" if name == "a.jsonl" else "test.jsonl"]
        return
    with pytest.raises(DataError) as caught:
        read(folder / name, **asked)
    assert said in str(caught.value) and caught.value.hint


def test_what_is_measured_with_is_what_was_kept_aside(tmp_path, write_lines):
    for name in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        write_lines([pair(1, prompt=name)], f"set/{name}.jsonl")
    assert [row.prompt[0].content for row in read_pairs(str(tmp_path / "set"), 1)] == ["test"]


def test_what_is_left_alone_is_said(tokenizer, make_recipe, write_lines, tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("ships_train", "ships_test", ".old"):
        write_lines([pair(number, prompt=f"{name} {number}") for number in range(30)], f"set/{name}.jsonl")
    sink = Notes()
    prepared = prepare(make_recipe(tmp_path / "set"), tokenizer, tmp_path / "data", sink)
    assert prepared.manifest["sources"][0]["read"] == 30
    assert sink.notes == [f"{tmp_path / 'set'}: reading ships_train.jsonl; left alone: ships_test.jsonl, .old.jsonl"]


def test_folders_that_are_not_looked_into_are_said(tmp_path, monkeypatch):
    fill(tmp_path, ["set/a.jsonl", "far/b.jsonl", "set/closed/c.jsonl", "set/.old/d.jsonl"])
    (tmp_path / "set/linked").symlink_to(tmp_path / "far")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found, note = read(tmp_path / "set")
    assert found == ["set/a.jsonl"]
    assert note.endswith("not looked into: closed (Permission denied), linked (a link)")
    (tmp_path / "set/a.jsonl").unlink()
    with pytest.raises(DataError, match=r"no data files but .*; not looked into: closed .*, linked \(a link\)"):
        read(tmp_path / "set")


def test_splits_of_a_document_that_are_left_alone_are_said(tokenizer, make_recipe, tmp_path):
    rows = [pair(number) for number in range(4)]  # so few that they are read a second time
    (tmp_path / "both.json").write_text(json.dumps({"version": "1", "train": rows, "test": rows[:3], "dev": rows[:2]}))
    sink = Notes()
    prepare(make_recipe(tmp_path / "both.json", validation=0.02), tokenizer, tmp_path / "data", sink)
    said = [note for note in sink.notes if not note.startswith("data.validation")]
    assert said == [f"{tmp_path / 'both.json'}: reading train; left alone: test, dev"] and len(sink.notes) == 2
