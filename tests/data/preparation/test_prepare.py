"""From sources to the store: every row is counted, nothing half-made stays, same inputs give same bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.preparation.prepare import prepare, ready
from rlhfcli.data.store.prepared import REJECTED
from rlhfcli.errors import DataError, OutputError
from rlhfcli.progress import Silent
from tests.data.conftest import Notes, pair

PAIRS = [pair(number, kind="even" if number % 2 == 0 else "odd", margin=number / 2) for number in range(60)]
DIALOGUES = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"it is {n}"}]}
    for n in range(60)
]


def add_up(prepared):
    for source in prepared.manifest["sources"]:
        assert source["read"] == source["kept"] + sum(source["dropped"].values())
    return prepared.manifest["sources"]


def test_a_round_trip_through_the_store(tokenizer, make_recipe, write_lines, tmp_path):
    path = write_lines(PAIRS)
    prepared = prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    encoder = Encoder(tokenizer, 512)
    here = Origin(str(path), "")
    pairs = [
        Preference.pair(
            (Turn("user", row["prompt"]),), row["chosen"], row["rejected"], here, row["margin"], row["kind"]
        )
        for row in PAIRS
    ]
    expected = {str(each.example) for each in encoder.preferences(pairs)}
    stored = [*prepared.pairs("train"), *prepared.pairs("validation")]
    assert {str(example) for example in stored} == expected and len(stored) == 60
    assert {example.kind for example in stored} == {"even", "odd"}
    learnt = [*prepared.dialogues("train"), *prepared.dialogues("validation")]
    assert {str(each) for each in learnt} == {
        str(each.example) for each in encoder.dialogues([p.preferred() for p in pairs])
    }
    train = prepared.pairs("train")
    assert train[-1] == train[len(train) - 1] and train[:2] == [train[0], train[1]]
    assert tokenizer.decode(train[0].prompt).split("?")[0].endswith(str(int(train.origin(0).split("line ")[1]) - 1))
    with pytest.raises(IndexError):
        train[len(train)]
    (source,) = add_up(prepared)
    assert source["reward"]["train"] == len(train) and source["kept"] == 60
    assert prepared.manifest["tokens"]["reward_train"]["rows"] == len(train)


def test_many_rows_cross_the_borders_of_batches(tokenizer, make_recipe, write_lines, tmp_path):
    rows = [pair(number) for number in range(2500)]
    prepared = prepare(make_recipe(write_lines(rows), validation=0.1), tokenizer, tmp_path / "data", Silent())
    train = prepared.pairs("train")
    numbers = [int(tokenizer.decode(example.answers[0]).split()[1].removesuffix("</s>")) for example in train]
    assert len(train) > 2048 and numbers == sorted(numbers) and len(set(numbers)) == len(train)


def test_every_row_is_counted_by_what_became_of_it(tokenizer, make_recipe, write_lines, tmp_path):
    rows = [
        *PAIRS, PAIRS[0], pair(100, rejected="answer 100"), {**pair(101), "chosen": None},
        pair(102, chosen="red " * 300 + "a", rejected="red " * 300 + "b"), pair(103, prompt="x </s>"),
        pair(104, prompt="blue " * 200), {**PAIRS[1], "rejected": "another"}, [],
    ]  # fmt: skip
    prepared = prepare(make_recipe(write_lines(rows), max_length=64), tokenizer, tmp_path / "data", Silent())
    (source,) = add_up(prepared)
    assert source["read"] == 68 and source["kept"] == 64 and source["cut"] == 2
    assert source["dropped"] == {
        "chosen and rejected are the same text": 1, "chosen is null, not text": 1, "duplicate": 1,
        "the row is not an object with columns": 1,
    }  # fmt: skip
    assert source["reward"]["dropped"] == {"chosen and rejected are the same after cutting": 1}
    assert source["sft"]["dropped"] == {"duplicate": 1}  # another rejected answer, the same chosen one
    assert source["sft"]["train"] + source["sft"]["validation"] == 63
    rejected = [json.loads(line) for line in (tmp_path / "data" / REJECTED).read_text().splitlines()]
    assert len(rejected) == 5
    named = {line["row"]: line["reason"] for line in rejected}
    assert named["line 63"] == "chosen is null, not text" and "after cutting" in named["line 64"]
    assert all(line["file"].endswith("rows.jsonl") and len(line["start"]) <= 200 for line in rejected)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_vanishes_whatever_the_rows(tokenizer, make_recipe, write_lines, tmp_path, data):
    strange = st.one_of(
        st.none(), st.integers(), st.lists(st.integers()),
        st.just({"prompt": None, "chosen": "a", "rejected": "b"}),
        st.builds(pair, st.integers(0, 20), rejected=st.text(max_size=5)),
    )  # fmt: skip
    rows = [*PAIRS, *data.draw(st.lists(strange, max_size=30))]
    recipe = make_recipe(write_lines(rows), max_length=data.draw(st.integers(12, 40)))
    (source,) = add_up(prepare(recipe, tokenizer, tmp_path / "data", Silent()))
    assert source["read"] == len(rows)


def test_weight_limit_and_phase(tokenizer, make_recipe, write_lines, tmp_path):
    pairs, dialogues = write_lines(PAIRS, "p.jsonl"), write_lines(DIALOGUES, "d.jsonl")
    recipe = make_recipe(
        {"path": str(pairs), "phase": "reward", "weight": 0.5},
        {"path": str(dialogues), "weight": 2.0, "limit": 40},
    )
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    first, second = add_up(prepared)
    assert first["sft"]["train"] == 0 and 15 <= first["kept"] <= 45
    assert first["dropped"] == {"outside the share that weight 0.5 takes": 60 - first["kept"]}
    assert second["read"] == second["kept"] == 40 and second["reward"]["train"] == 0
    once = {str(example) for example in prepared.dialogues("train")}
    assert len(prepared.dialogues("train")) == 2 * len(once)
    assert len(once) + len(prepared.dialogues("validation")) == 40


def test_phases_get_disjoint_prompts_where_a_split_is_given(tokenizer, make_recipe, write_lines, tmp_path):
    rows = [pair(number) for number in range(300)]
    recipe = make_recipe(write_lines(rows), phase_split={"sft": 2.0, "reward": 4.0, "rlhf": 4.0})
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    (source,) = add_up(prepared)
    assert list(source["dropped"]) == ["kept for the rlhf phase (phase_split)"]
    parts = ("train", "validation")
    learnt = {tokenizer.decode(each.ids).split("?")[0] for part in parts for each in prepared.dialogues(part)}
    ranked = {tokenizer.decode(each.prompt).split("?")[0] for part in parts for each in prepared.pairs(part)}
    assert learnt and ranked and not learnt & ranked
    assert len(learnt | ranked) == source["kept"]


def test_the_same_file_may_be_named_once_for_each_phase(tokenizer, make_recipe, write_lines, tmp_path):
    path = str(write_lines(PAIRS))
    recipe = make_recipe({"path": path, "phase": "sft"}, {"path": path, "phase": "reward"})
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    assert [source["kept"] for source in add_up(prepared)] == [60, 60]


def test_the_same_inputs_are_answered_from_the_store(tokenizer, make_recipe, write_lines, tmp_path):
    path, folder, sink = write_lines(PAIRS), tmp_path / "data", Notes()
    recipe = make_recipe(path)
    prepare(recipe, tokenizer, folder, sink)
    files = {file.name: (file.read_bytes(), file.stat().st_ino) for file in folder.iterdir()}
    assert sorted(files) == [
        "manifest.json", "rejected_rows.jsonl", "reward_train.arrow", "reward_validation.arrow",
        "sft_train.arrow", "sft_validation.arrow", "training_prompts.arrow",
    ]  # fmt: skip
    prepare(recipe, tokenizer, folder, sink)
    assert {file.name: (file.read_bytes(), file.stat().st_ino) for file in folder.iterdir()} == files
    assert "is up to date" in sink.notes[-1]
    prepare(recipe, tokenizer, tmp_path / "again", sink)
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == {
        name: content for name, (content, _) in files.items()
    }


CHANGES = {
    "content": lambda recipe, tokenizer, path: path.write_text(json.dumps(pair(1)) + "\n" + path.read_text()),
    "template": lambda recipe, tokenizer, path: setattr(
        tokenizer, "chat_template", tokenizer.chat_template + "{# x #}"
    ),
    "tokenizer": lambda recipe, tokenizer, path: tokenizer.add_tokens(["question"]),
    "code": None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_makes_a_new_store(tokenizer, make_recipe, write_lines, tmp_path, monkeypatch, change):
    path, sink = write_lines(PAIRS), Notes()
    recipe = make_recipe(path)
    before = prepare(recipe, tokenizer, tmp_path / "data", sink).manifest["fingerprint"]
    if change is None:
        monkeypatch.setattr("rlhfcli.data.preparation.inputs.code_identity", lambda package: "other")
    else:
        change(recipe, tokenizer, path)
    assert prepare(recipe, tokenizer, tmp_path / "data", sink).manifest["fingerprint"] != before
    assert "is made anew" in sink.notes[-1]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_an_interrupted_run_leaves_nothing(tokenizer, make_recipe, write_lines, tmp_path, monkeypatch, error):
    def stop(self, batch):
        raise error

    path = write_lines(PAIRS)
    monkeypatch.setattr(Encoder, "encode", stop)
    with pytest.raises(OutputError if error is OSError else error):
        prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_old_store_survives_a_failed_run(tokenizer, make_recipe, write_lines, tmp_path):
    path = write_lines(PAIRS)
    prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    path.write_text("{")
    with pytest.raises(DataError):
        prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    sink = Notes()
    prepare(make_recipe(path), tokenizer, tmp_path / "data", sink)
    assert "is up to date" in sink.notes[-1]


def test_a_folder_of_something_else_is_not_touched(tokenizer, make_recipe, write_lines, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something other than"):
        prepare(make_recipe(write_lines(PAIRS)), tokenizer, tmp_path / "data", Silent())
    assert (tmp_path / "data" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written(tokenizer, make_recipe, write_lines, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        prepare(make_recipe(write_lines(PAIRS)), tokenizer, tmp_path / "file" / "data", Silent())


CODE = ["if a: b", "if a:  b", "IF a: b", "if a: b"]


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("drop", 1, {"duplicate": 1, "duplicate but for upper case and white space": 2}),
        ("drop_exact", 3, {"duplicate": 1}),
        ("keep", 4, {}),
    ],
)
def test_what_counts_as_a_duplicate(tokenizer, make_recipe, write_lines, tmp_path, policy, kept, dropped):
    others = [{"prompt": f"other {number}", "response": "yes"} for number in range(20)]
    rows = [{"prompt": "repeat", "response": code} for code in CODE]
    recipe = make_recipe(write_lines([*rows, *others]), duplicates=policy)
    (source,) = prepare(recipe, tokenizer, tmp_path / "data", Silent()).manifest["sources"]
    assert (source["kept"] - len(others), source["dropped"]) == (kept, dropped)


EMPTY = {
    "one row": (PAIRS[:1], {}, "is empty: 1 row can be used, 0 cannot; one row cannot be learnt and measured with"),
    "training": (PAIRS[:2], {"validation": 1 - 1e-9}, "the train part of the sft phase is empty"),
    "all too long": (
        PAIRS,
        {"max_length": 8, "truncation": "drop"},
        "none of the 60 rows can be used; 60 of them: longer",
    ),
    "no usable row": (
        [{**pair(1), "chosen": ""}] * 3,
        {},
        "line 1: none of the 3 rows can be used; 3 of them: chosen is empty",
    ),
    "several reasons": (
        [{**pair(1), "chosen": ""}] * 3 + [{**pair(2), "rejected": None}, 7],
        {},
        "3 of them: chosen is empty\n1 of them: rejected is null, not text\n1 of them: the row is not an object",
    ),
    "a share of nothing": (
        PAIRS,
        {"phase_split": {"sft": 0.0, "reward": 0.0, "rlhf": 1.0}},
        "no row is left for any phase",
    ),
}


@pytest.mark.parametrize(("rows", "data", "message"), EMPTY.values(), ids=EMPTY.keys())
def test_parts_without_rows_are_errors(tokenizer, make_recipe, write_lines, tmp_path, rows, data, message):
    with pytest.raises(DataError) as caught:
        prepare(make_recipe(write_lines(rows), **data), tokenizer, tmp_path / "data", Silent())
    assert message in str(caught.value) and caught.value.hint
    assert not (tmp_path / "data").exists()


def test_a_phase_that_was_given_nothing_says_so_when_asked(tokenizer, make_recipe, write_lines, tmp_path):
    prepared = prepare(make_recipe(write_lines(DIALOGUES)), tokenizer, tmp_path / "data", Silent())
    assert len(prepared.dialogues("train")) > 0
    with pytest.raises(DataError, match="no preference rows for the reward phase"):
        prepared.pairs("train")


def test_the_built_in_data_go_through(tokenizer, make_recipe, tmp_path):
    recipe = make_recipe({"path": "builtin:tiny", "limit": 200})
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    assert [source["path"] for source in add_up(prepared)] == ["builtin:tiny"]
    dialogues = [Dialogue((Turn("user", "x"), Turn("assistant", "y")), Origin("a", "row 1"))]
    assert Encoder(tokenizer, 64).dialogues(dialogues)[0].example and len(prepared.pairs("train")) > 0


QUICK = {
    "nothing": (lambda folder, path: None, True),
    "a row": (lambda folder, path: path.write_text(json.dumps(pair(1)) + "\n" + path.read_text()), False),
    "the tokenizer": (lambda folder, path: (folder / "tokenizer.json").write_text("{}"), False),
    "the template": (lambda folder, path: (folder / "chat_template.jinja").write_text("{# x #}"), False),
    "the weights": (lambda folder, path: (folder / "model.safetensors").write_text("x"), True),
}


@pytest.mark.parametrize(("change", "taken"), QUICK.values(), ids=QUICK.keys())
def test_a_store_is_taken_without_its_tokenizer_only_if_nothing_changed(
    tokenizer, make_recipe, write_lines, tmp_path, change, taken
):
    tokenizer.save_pretrained(tmp_path / "model")
    path, folder = write_lines(PAIRS), tmp_path / "data"
    recipe = make_recipe(path)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": str(tmp_path / "model")})})
    assert ready(recipe, folder) is None
    made = prepare(recipe, tokenizer, folder, Silent())
    change(tmp_path / "model", path)
    found = ready(recipe, folder)
    assert (found is not None) == taken
    assert not taken or found.manifest == made.manifest
    assert ready(recipe.model_copy(update={"seed": 2}), folder) is None


def test_a_tokenizer_of_the_hub_has_to_be_loaded(tokenizer, make_recipe, write_lines, tmp_path):
    recipe = make_recipe(write_lines(PAIRS))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": "someone/some-model"})})
    prepare(recipe, tokenizer, tmp_path / "data", Silent())
    assert ready(recipe, tmp_path / "data") is None
