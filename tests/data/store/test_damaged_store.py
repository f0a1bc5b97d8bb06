"""A store of which any byte has changed is noticed before it is used, and made anew where its sources are there."""

from __future__ import annotations

import json
import random

import pytest

from rlhfcli.data.preparation.prepare import prepare, ready
from rlhfcli.data.store import manifest
from rlhfcli.data.store.manifest import damage
from rlhfcli.data.store.prepared import REJECTED, DataStore
from rlhfcli.errors import DataError, OutputError
from rlhfcli.files.run_layout import DATA_MANIFEST as MANIFEST
from tests.data.conftest import pair
from tests.data.preparation.test_prepare import Notes

PAIRS = [*(pair(number) for number in range(60)), {"prompt": "x", "chosen": None, "rejected": "a"}]
ARROW = ("sft_train.arrow", "reward_validation.arrow", "training_prompts.arrow")


@pytest.fixture
def made(tokenizer, make_recipe, write_lines, tmp_path):
    """A recipe whose tokenizer is a folder, its store, and what makes it."""
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = make_recipe(write_lines(PAIRS))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": str(tmp_path / "model")})})
    folder, sink = tmp_path / "run" / "data", Notes()

    def make(**more):
        return prepare(recipe, tokenizer, folder, sink, **more)

    make()
    return recipe, folder, make, sink


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def edit(change):
    def edited(file):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edited


DAMAGE = {  # what happened to which file → what is said
    **{f"{name} flipped": (name, flip, f"{name} is not as it was written") for name in (*ARROW, REJECTED)},
    **{f"{name} missing": (name, lambda file: file.unlink(), f"{name} is missing") for name in (*ARROW, REJECTED)},
    "cut": (ARROW[0], lambda file: file.write_bytes(file.read_bytes()[:-9]), "bytes instead of"),
    "empty": (ARROW[1], lambda file: file.write_bytes(b""), "has 0 bytes instead of"),
    "manifest missing": (MANIFEST, lambda file: file.unlink(), "manifest.json is missing"),
    "manifest empty": (MANIFEST, lambda file: file.write_text(""), "manifest.json cannot be read"),
    "manifest cut": (MANIFEST, lambda file: file.write_text(file.read_text()[:99]), "manifest.json cannot be read"),
    "manifest a list": (MANIFEST, lambda file: file.write_text("[]"), "manifest.json cannot be read"),
    "manifest deep": (MANIFEST, lambda file: file.write_text("[" * 99999), "manifest.json cannot be read"),
    "manifest bytes": (MANIFEST, lambda file: file.write_bytes(b'{"\xff": 1}'), "manifest.json cannot be read"),
    "a count": (MANIFEST, edit(lambda content: content["sources"][0].update(kept=3)), "is not as it was written"),
    "no counts": (MANIFEST, edit(lambda content: content.pop("tokens")), "manifest.json is not as it was written"),
    "no files": (MANIFEST, edit(lambda content: content.pop("files")), "manifest.json is not as it was written"),
    "an older version": (
        MANIFEST,
        edit(lambda content: (content.pop("files"), content.pop("sum"))),
        "manifest.json was written by an older version",
    ),
}


@pytest.mark.parametrize(("name", "spoil", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_store_is_made_anew(made, name, spoil, said):
    recipe, folder, make, sink = made
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert ready(recipe, folder) is not None
    spoil(folder / name)
    assert ready(recipe, folder) is None
    make()
    assert f"prepared data: {folder} cannot be used (" in sink.notes[-1] and said in sink.notes[-1]
    assert sink.notes[-1].endswith("), and is made anew")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert ready(recipe, folder) is not None


def test_a_damaged_store_whose_sources_are_gone_is_named(made, tmp_path):
    recipe, folder, make, _ = made
    (tmp_path / "rows.jsonl").unlink()
    flip(folder / "sft_train.arrow")
    for use in (make, lambda: ready(recipe, folder)):
        with pytest.raises(DataError, match="there is no such file") as caught:
            use()
        assert f"{folder} is damaged, too (sft_train.arrow is not as it was written)" in caught.value.hint


def test_anew_makes_a_store_that_is_whole_again(made):
    _, folder, make, sink = made
    make()
    assert "is up to date" in sink.notes[-1]
    inode = (folder / MANIFEST).stat().st_ino
    make(anew=True)
    assert (folder / MANIFEST).stat().st_ino != inode and len(sink.notes) == 1


def test_files_are_summed_once_in_a_process_unless_they_change(made, monkeypatch):
    _, folder, _, _ = made
    summed = []
    real = manifest.checksum
    monkeypatch.setattr(manifest, "checksum", lambda file: summed.append(file) or real(file))
    assert damage(folder) is None and damage(folder) is None
    assert len(summed) == 6
    flip(folder / "sft_train.arrow")
    assert damage(folder) == "sft_train.arrow is not as it was written"


@pytest.mark.parametrize("name", ["thesis.txt", "mine/x.txt"])
def test_files_of_others_beside_a_store_are_not_lost(made, name):
    _, folder, make, _ = made
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("years of work")
    make()  # it is up to date
    with pytest.raises(OutputError, match=f"holds something other than prepared data: {name.partition('/')[0]}"):
        make(anew=True)
    assert (folder / name).read_text() == "years of work"


@pytest.mark.parametrize("content", ["{}", "years of work", '["fingerprint"]', '{"name": "my app"}'])
def test_a_manifest_of_something_else_is_not_replaced(made, content):
    _, folder, make, _ = made
    for file in folder.iterdir():
        file.unlink()
    (folder / MANIFEST).write_text(content)
    with pytest.raises(OutputError, match="holds something other than"):
        make(anew=True)
    assert (folder / MANIFEST).read_text() == content


def test_whatever_byte_changes_is_noticed(made):
    _, folder, _, _ = made
    chance = random.Random(1)
    files = sorted(folder.iterdir())
    for _ in range(300):
        file = chance.choice(files)
        before = file.read_bytes()
        at = chance.randrange(len(before))
        byte = chance.choice([value for value in (0, 32, 48, 49, 65, 255) if value != before[at]])
        after = before[:at] + bytes([byte]) + before[at + 1 :]
        file.write_bytes(after)
        fault = damage(folder)
        # another kind of white space, or 0.0 with a zero more, says the same
        same = fault is None and file.name == MANIFEST and json.loads(before) == json.loads(after)
        assert fault is not None or same, (file.name, at, before[at], byte)
        file.write_bytes(before)


def test_what_is_opened_although_it_is_damaged_is_an_error_that_names_the_file(made):
    _, folder, _, _ = made
    prepared = DataStore(folder)
    (folder / "sft_train.arrow").write_bytes(b"ARROW1\0\0")
    (folder / "reward_train.arrow").unlink()
    for phase, what in ((prepared.dialogues, "cannot be read"), (prepared.pairs, "is missing")):
        with pytest.raises(DataError, match=f"a file of the prepared data {what}") as caught:
            phase("train")
        assert "rlhf prepare-data --overwrite" in str(caught.value)
