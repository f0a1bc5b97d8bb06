"""What is asked of the hub: the recipe's words, and the catalogue's where the recipe says nothing."""

from __future__ import annotations

import json

import datasets
import pytest

from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.shapes.catalogue import ENTRIES
from rlhfcli.data.sources.sources import open_source
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import SourceSection
from tests.data.catalogue_rows import DIALOGUES, PAIRS, RANKINGS, SCORED, TREE

ASKED = {
    "unknown to the catalogue": (
        {"path": "someone/some-data"},
        ("someone/some-data", {"split": "train", "name": None}),
    ),
    "its training split": (
        {"path": "HuggingFaceH4/ultrafeedback_binarized"},
        ("HuggingFaceH4/ultrafeedback_binarized", {"split": "train_prefs", "name": None, "data_dir": None}),
    ),
    "its folder": (
        {"path": "nvidia/HelpSteer2"},
        ("nvidia/HelpSteer2", {"split": "train", "name": None, "data_dir": "preference"}),
    ),
    "its configuration": (
        {"path": "nvidia/helpsteer3"},
        ("nvidia/HelpSteer3", {"split": "train", "name": "preference", "data_dir": None}),
    ),
    "another name": (
        {"path": "mkqa-Japanese", "split": "train[:10]"},
        ("apple/mkqa", {"split": "train[:10]", "name": None, "data_dir": None}),
    ),
    "the recipe's own": (
        {"path": "nvidia/HelpSteer3", "subset": "feedback", "split": "validation"},
        ("nvidia/HelpSteer3", {"split": "validation", "name": "feedback"}),
    ),
}


@pytest.mark.parametrize(("source", "expected"), ASKED.values(), ids=ASKED.keys())
def test_what_is_asked_of_the_hub(monkeypatch, source, expected):
    asked = []

    def load(path, **options):
        asked.append((path, options))
        return datasets.Dataset.from_list([{"prompt": "a", "response": "b"}] * 3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (stream,) = open_source(SourceSection(**source), seed=1)
    assert asked == [expected]
    assert [origin.row for _, origin in stream.rows] == ["row 1", "row 2", "row 3"]
    assert stream.meter.done == stream.meter.size == 3


def test_a_split_that_is_not_there(monkeypatch):
    def load(path, **options):
        raise ValueError(f"Unknown split \"{options['split']}\". Should be one of ['train', 'test'].")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="has no split 'dev'") as caught:
        open_source(SourceSection(path="someone/some-data", split="dev"), seed=1)
    assert "Should be one of" in caught.value.hint


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of the hub without a network, with two configurations of one data set and one of another."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name, configuration in (("sums", "main"), ("sums", "socratic"), ("capitals", "europe")):
        folder = tmp_path / f"someone___{name}" / configuration / "0.0.0" / "0123"
        folder.mkdir(parents=True)
        rows = datasets.Dataset.from_list([{"prompt": configuration, "response": "b"}] * 3)
        rows.save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(folder / f"{name}-train.arrow")
        split = {"name": "train", "num_bytes": 1, "num_examples": 3, "dataset_name": name}
        info = {"features": rows.features.to_dict(), "config_name": configuration, "dataset_name": name}
        info |= {"builder_name": "parquet", "splits": {"train": split}, "version": "0.0.0"}
        (folder / "dataset_info.json").write_text(json.dumps(info))


CONFIGURATIONS = {
    "none is named": (None, "the data set has the configurations main, socratic", "subset=main"),
    "none such": ("socrates", "there is no configuration 'socrates': the data set has the", "subset=socratic"),
}


@pytest.mark.parametrize(("subset", "said", "advice"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_configurations_of_a_cached_data_set_are_named(cached, subset, said, advice):
    with pytest.raises(DataError) as caught:
        open_source(SourceSection(path="someone/sums", subset=subset), seed=1, number=2)
    assert said in caught.value.what and caught.value.where == "data.sources.2: someone/sums"
    assert caught.value.hint == f"Choose one: --set data.sources.2.{advice}"


@pytest.mark.parametrize("subset", ["main", "socratic"])
def test_a_configuration_of_a_cached_data_set(cached, subset):
    (stream,) = open_source(SourceSection(path="someone/sums", subset=subset), seed=1)
    assert [row["prompt"] for row, _ in stream.rows] == [subset] * 3


def test_the_only_configuration_is_taken_and_named(cached):
    (stream,) = open_source(SourceSection(path="someone/capitals"), seed=1)
    assert stream.name == "someone/capitals (europe, train)"


HUB_SAYS = {  # of datasets 5.2, when it reaches the hub
    "none is named": (
        None,
        "Config name is missing.\nPlease pick one among the available configs: ['a', 'b-c']",
    ),
    "none such": ("x", "BuilderConfig 'x' not found. Available: ['a', 'b-c']"),
}


@pytest.mark.parametrize(("subset", "said"), HUB_SAYS.values(), ids=HUB_SAYS.keys())
def test_configurations_of_a_data_set_of_the_hub_are_named(monkeypatch, subset, said):
    def load(path, **options):
        raise ValueError(said)

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="the data set has the configurations a, b-c"):
        open_source(SourceSection(path="someone/some-data", subset=subset), seed=1)


ROWS = {name: [first] for name, (first, *_) in (DIALOGUES | PAIRS | RANKINGS).items()}
ROWS |= {"OpenAssistant/oasst1": TREE, "OpenAssistant/oasst2": TREE, "nvidia/HelpSteer2-scores": SCORED}


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_every_data_set_of_the_catalogue_can_be_prepared(
    name, monkeypatch, tokenizer, make_recipe, write_lines, tmp_path
):
    other = write_lines([{"prompt": f"question {k}?", "chosen": f"answer {k}", "rejected": "no"} for k in range(40)])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: datasets.Dataset.from_list(ROWS[name]))
    (tmp_path / "x").mkdir()
    prepared = prepare(make_recipe({"path": name}, other), tokenizer, tmp_path / "x" / "data", Silent())
    source = prepared.manifest["sources"][0]
    assert source["kept"] >= 1 and source["shapes"][0].lower() == name.lower()
