"""Paths that are no models are refused at once, with a suggestion."""

from pathlib import Path

import pytest

from rlhfcli.errors import ModelError
from rlhfcli.files import model_path

FOLDERS = ("runs/tiny/sft/final", "runs/tiny/reward/final", "runs/half/sft/final", "models/opt")
CASES = [  # name → what is said, and the hint
    ("runs/tiny", "no config.json", "Did you mean runs/tiny/sft/final or runs/tiny/reward/final?"),
    ("runs/half", "no config.json", "Did you mean runs/half/sft/final?"),
    ("runs/tiny/sft", "no config.json", "Did you mean runs/tiny/sft/final?"),
    ("runs", "no config.json", "A model folder has config.json and *.safetensors."),
    ("./runs/tny", "there is no such folder", "Did you mean runs/tiny/sft/final or runs/tiny/reward/final?"),
    ("./runs/tny/sft/final", "there is no such folder", "Did you mean runs/tiny/sft/final?"),
    ("./models/opr", "there is no such folder", "Did you mean models/opt?"),
    ("./nowhere", "there is no such folder", "Give a model folder, or a name on the hub."),
    ("/no/such/folder", "there is no such folder", "Give a model folder, or a name on the hub."),
    ("./models/opt/config.json", "this is a file and no model folder", "Did you mean models/opt?"),
]


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in FOLDERS:
        Path(name).mkdir(parents=True)
        Path(name, "config.json").write_text("{}")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")


@pytest.mark.parametrize(("name", "what", "hint"), CASES)
def test_no_model(name, what, hint):
    with pytest.raises(ModelError) as caught:
        model_path.check(name)
    assert what in caught.value.what
    assert (caught.value.where, caught.value.hint) == (name, hint)


@pytest.mark.parametrize("name", ["models/opt", "facebook/opt-125m", "gpt2", "builtin:tiny"])
def test_names_that_may_be_models(name):
    model_path.check(name)


def test_a_name_that_has_to_be_a_folder():
    with pytest.raises(ModelError, match="there is no such folder"):
        model_path.check("gpt2", local=True)


def test_adapters_where_they_are_accepted():
    model_path.check("adapter", adapters=True)
    with pytest.raises(ModelError, match="this is the folder of an adapter"):
        model_path.check("adapter")
