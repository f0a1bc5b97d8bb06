"""Data that a stopped training began with stays, if nothing but the code that made it has changed."""

from __future__ import annotations

import json

import pytest

from rlhfcli.data.preparation import inputs
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.store.manifest import MANIFEST, read_manifest
from rlhfcli.data.store.prepared import DataStore
from tests.data.conftest import Notes, pair

PAIRS = [pair(number, kind="k", margin=1.0) for number in range(60)]


def unsealed(folder):
    """Make the manifest one of a version that recorded neither sums nor the identities of sources."""
    content = json.loads((folder / MANIFEST).read_text())
    for key in ("sum", "files", "inputs", "raised_validation", "ignored", "date"):
        del content[key]
    (folder / MANIFEST).write_text(json.dumps(content))


CHANGES = {  # what has changed besides the code → whether the data may stay
    "nothing": (lambda folder, path, recipe, tokenizer: None, True),
    "an older manifest": (lambda folder, path, recipe, tokenizer: unsealed(folder), True),
    "a source file": (lambda folder, path, recipe, tokenizer: path.write_text(path.read_text()[:-1]), False),
    "a setting": (lambda folder, path, recipe, tokenizer: object.__setattr__(recipe.data, "max_length", 300), False),
    "the seed": (lambda folder, path, recipe, tokenizer: object.__setattr__(recipe, "seed", 9), False),
    "what SFT learns": (
        lambda folder, path, recipe, tokenizer: object.__setattr__(
            recipe, "sft", recipe.sft.model_copy(update={"loss_on": "last"})
        ),
        False,
    ),
    "the tokenizer": (lambda folder, path, recipe, tokenizer: tokenizer.add_tokens(["zebra"]), False),
    "a byte of it": (lambda folder, path, recipe, tokenizer: flip(folder / "sft_train.arrow"), False),
    "rows of an older one": (lambda folder, path, recipe, tokenizer: (unsealed(folder), lose(folder)), False),
    "an older one's file": (
        lambda folder, path, recipe, tokenizer: (unsealed(folder), (folder / "sft_train.arrow").write_bytes(b"ARROW1")),
        False,
    ),
}


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def lose(folder):
    (folder / "sft_train.arrow").write_bytes((folder / "sft_validation.arrow").read_bytes())


@pytest.mark.parametrize(("change", "stays"), CHANGES.values(), ids=CHANGES.keys())
def test_whether_data_of_another_version_may_stay(
    tokenizer, make_recipe, write_lines, tmp_path, monkeypatch, change, stays
):
    path, folder, sink, asked = write_lines(PAIRS), tmp_path / "data", Notes(), []
    recipe = make_recipe(path)
    before = prepare(recipe, tokenizer, folder, sink).manifest["fingerprint"]
    monkeypatch.setattr(inputs, "code_identity", lambda package: "another version")
    change(folder, path, recipe, tokenizer)

    def keep(replacement):
        asked.append(replacement)
        return bool(replacement.present)

    after = prepare(recipe, tokenizer, folder, sink, keep_present=keep)
    assert [each.present for each in asked] == [before if stays else ""]
    assert (after.manifest["fingerprint"] == before) is stays
    assert ("was made by another version of rlhf, and is kept" in sink.notes[-1]) is stays
    assert sink.notes[-1].endswith("not recorded") is (stays and "inputs" not in after.manifest)
    assert len(after.dialogues("train")) == after.manifest["tokens"]["sft_train"]["rows"]


def test_overwriting_makes_it_again(tokenizer, make_recipe, write_lines, tmp_path, monkeypatch):
    recipe, folder = make_recipe(write_lines(PAIRS)), tmp_path / "data"
    before = prepare(recipe, tokenizer, folder, Notes()).manifest["fingerprint"]
    monkeypatch.setattr(inputs, "code_identity", lambda package: "another version")
    kept = prepare(recipe, tokenizer, folder, Notes(), anew=True, keep_present=lambda new: bool(new.present))
    assert kept.manifest["fingerprint"] != before


def test_generated_rows_are_code(tokenizer, make_recipe, tmp_path, monkeypatch):
    recipe, folder = make_recipe({"path": "builtin:tiny/pairs", "limit": 80}), tmp_path / "data"
    before = prepare(recipe, tokenizer, folder, Notes()).manifest["fingerprint"]
    monkeypatch.setattr("rlhfcli.data.sources.sources.code_identity", lambda package: "another version")
    kept = prepare(recipe, tokenizer, folder, Notes(), keep_present=lambda new: bool(new.present))
    assert kept.manifest["fingerprint"] == before


def test_a_manifest_without_sums_is_read_where_that_is_meant(tokenizer, make_recipe, write_lines, tmp_path):
    prepare(make_recipe(write_lines(PAIRS)), tokenizer, tmp_path / "data", Notes())
    sealed = read_manifest(tmp_path / "data")
    unsealed(tmp_path / "data")
    assert DataStore(tmp_path / "data").manifest["fingerprint"] == sealed["fingerprint"]
