"""Evaluation prompts that are trained on are found, whatever their case and spaces."""

from __future__ import annotations

import pytest

from rlhfcli.data.preparation.overlap import find_overlap
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import EvalSection
from tests.data.conftest import pair

PAIRS = [pair(number) for number in range(60)]


@pytest.fixture
def folder(tokenizer, make_recipe, write_lines, tmp_path):
    prepare(make_recipe(write_lines(PAIRS)), tokenizer, tmp_path / "data", Silent())
    return tmp_path / "data"


def trained(folder):
    from rlhfcli.data.store.prepared import DataStore

    train = DataStore(folder).pairs("train")
    return {int(train.origin(k).rpartition(" ")[2]) - 1 for k in range(len(train))}


def test_prompts_of_both_sets_are_compared(folder, write_lines):
    prompts = write_lines([{"prompt": f" Question  {number}?"} for number in range(50, 70)], "prompts.jsonl")
    pairs = write_lines([pair(1, chosen="something else"), pair(1000)], "pairs.jsonl")
    found = find_overlap(folder, EvalSection(prompts=str(prompts), pairs=str(pairs)), seed=1)
    known = trained(folder)
    assert found["eval.prompts"]["rows"] == 20
    assert found["eval.prompts"]["found"] == len(known & set(range(50, 70))) > 0
    assert found["eval.pairs"]["rows"] == 2 and found["eval.pairs"]["found"] == (1 in known)
    named = {int(place.rpartition(" ")[2]) - 1 for place in found["eval.prompts"]["examples"]}
    assert named <= known & set(range(50, 60)) and named
    assert all(place.rpartition(": ")[0].endswith("rows.jsonl") for place in found["eval.prompts"]["examples"])


DIALOGUES = [
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": f"first question {number}"},
            {"role": "assistant", "content": f"first answer {number}"},
            {"role": "user", "content": f"second question {number}"},
            {"role": "assistant", "content": f"second answer {number}"},
        ]
    }
    for number in range(20)
]
FOUND_IN_DIALOGUES = {
    "the first question": [{"role": "user", "content": "First  question {}"}],
    "the first question under another system turn": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "first question {}"}
    ],
    "the second question alone": [{"role": "user", "content": "second question {}"}],
    "all of it": [*DIALOGUES[0]["messages"][1:4]],
}  # fmt: skip


@pytest.mark.parametrize("asked", FOUND_IN_DIALOGUES.values(), ids=FOUND_IN_DIALOGUES.keys())
def test_every_turn_of_a_trained_dialogue_is_looked_at(tokenizer, make_recipe, write_lines, tmp_path, asked):
    prepared = prepare(make_recipe(write_lines(DIALOGUES)), tokenizer, tmp_path / "data", Silent())
    rows = [
        {"messages": [turn | {"content": turn["content"].replace(" 0", f" {n}").format(n)} for turn in asked]}
        for n in range(20)
    ]
    path = write_lines([*rows, {"prompt": "first answer 3"}, {"prompt": "Be kind."}], "prompts.jsonl")
    found = find_overlap(prepared.folder, EvalSection(prompts=str(path)), seed=1)["eval.prompts"]
    assert found["rows"] == 22 and found["found"] == len(prepared.dialogues("train"))


def test_validation_rows_are_not_training_rows(folder, write_lines):
    held_out = sorted(set(range(60)) - trained(folder))
    path = write_lines([pair(number) for number in held_out], "held_out.jsonl")
    assert find_overlap(folder, EvalSection(pairs=str(path)), seed=1)["eval.pairs"] == {
        "rows": len(held_out), "found": 0, "examples": []
    }  # fmt: skip


def test_named_sets_are_looked_for_apart(folder, write_lines):
    known = sorted(trained(folder))
    paths = {name: str(write_lines([pair(n)], f"{name}.jsonl")) for name, n in (("easy", known[0]), ("hard", 1000))}
    found = find_overlap(folder, EvalSection(pairs=paths), seed=1)
    assert {name: each["found"] for name, each in found.items()} == {"eval.pairs.easy": 1, "eval.pairs.hard": 0}


def test_a_recipe_without_sets_has_no_overlap(folder):
    assert find_overlap(folder, EvalSection(), seed=1) == {}


def test_a_set_that_cannot_be_read_is_an_error(folder):
    with pytest.raises(DataError, match="no such file"):
        find_overlap(folder, EvalSection(prompts="missing.jsonl"), seed=1)
