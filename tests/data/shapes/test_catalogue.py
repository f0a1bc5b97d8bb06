"""Data sets of the hub: rows with all the columns that they have there, and what becomes of them."""

from __future__ import annotations

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.shapes.catalogue import ENTRIES, entries_of, find_entry
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape, named_shapes
from tests.data.catalogue_rows import (
    BAD,
    DIALOGUES,
    GOOD,
    HELPSTEER2,
    HELPSTEER3,
    JOINED,
    PAIRS,
    RANKINGS,
    SCORED,
    Q,
    dialogue,
    mkqa,
    passage,
    plain,
    shape_of,
)

HERE = Origin("rows.jsonl", "line 7")


@pytest.mark.parametrize(("name", "row", "prompt", "answer"), [(n, *rest) for n, rest in DIALOGUES.items()])
def test_data_sets_of_dialogues(name, row, prompt, answer):
    found = convert(row, shape_of(name), HERE)
    assert isinstance(found, Dialogue)
    assert plain(found.turns) == [*prompt, ("assistant", answer)]


@pytest.mark.parametrize(("name", "row", "prompt", "margin", "kind"), [(n, *rest) for n, rest in PAIRS.items()])
def test_data_sets_of_pairs(name, row, prompt, margin, kind):
    found = convert(row, shape_of(name), HERE)
    assert isinstance(found, Preference)
    assert (plain(found.prompt), found.order, found.kind) == (prompt, ((0, 1),), kind)
    assert [answer.strip() for answer in found.answers] == [GOOD, BAD]
    assert found.margins == (() if margin is None else (pytest.approx(margin),))


@pytest.mark.parametrize(
    ("name", "row", "answers", "order", "margins", "kind"), [(n, *rest) for n, rest in RANKINGS.items()]
)
def test_data_sets_of_rankings(name, row, answers, order, margins, kind):
    found = convert(row, shape_of(name), HERE)
    assert (found.prompt, found.answers, found.order) == ((Turn("user", Q),), tuple(answers), order)
    assert (found.margins, found.kind) == (pytest.approx(margins), kind)


def test_every_data_set_has_a_row_here():
    assert {entry.name for entry in ENTRIES} == {*DIALOGUES, *PAIRS, *RANKINGS, *JOINED}


@pytest.mark.parametrize("name", [*DIALOGUES, *PAIRS, *RANKINGS])
def test_under_its_name_a_data_set_is_read_as_the_catalogue_says(name):
    row = {**DIALOGUES, **PAIRS, **RANKINGS}[name][0]
    entry = find_entry(name)
    assert detect_shape([row], named_shapes("auto", name), name).name == entry.name
    assert set(entry.needs) <= set(row)


LAYOUTS = {  # what is written like a known data set is recognised without its name
    "openai/webgpt_comparisons": "webgpt",
    "stanfordnlp/SHP": "shp",
    "nvidia/HelpSteer2": "helpsteer2",
    "nvidia/HelpSteer3": "helpsteer3",
    "PKU-Alignment/PKU-SafeRLHF": "safe_rlhf",
    "openbmb/UltraFeedback": "ultrafeedback",
    "HuggingFaceH4/ultrafeedback_binarized": "messages_pairs",
    "HuggingFaceH4/no_robots": "messages",
    "databricks/databricks-dolly-15k": "instruction_response",
    "allenai/reward-bench-2": "prompt_pairs",
    "lmarena-ai/arena-human-preference-55k": "arena_texts",
    "lmarena-ai/arena-human-preference-140k": "arena",
    "ScalerLab/JudgeBench": "judgebench",
    "THU-KEG/RM-Bench": "prompt_pairs",
}


@pytest.mark.parametrize(("name", "shape"), LAYOUTS.items())
def test_known_layouts_are_recognised_by_their_columns(name, shape):
    row = {**DIALOGUES, **PAIRS, **RANKINGS}[name][0]
    found = detect_shape([row], SHAPES, "rows.jsonl")
    assert found.name == shape
    by_name = convert(row, shape_of(name), HERE)
    by_columns = convert(row, found, HERE)
    if isinstance(by_name, Preference):
        assert (by_columns.prompt, by_columns.answers) == (by_name.prompt, by_name.answers)
        assert (by_columns.order, by_columns.margins) == (by_name.order, by_name.margins)
    else:
        assert by_columns == by_name


PROBLEMS = {
    "an empty list": (
        "Cohere/miracl-zh-queries-22-12",
        {"query": "q", "positive_passages": [passage("p")], "negative_passages": []},
        "negative_passages.0.text: the list has no elements",
    ),
    "no list": (
        "Cohere/miracl-zh-queries-22-12",
        {"query": "q", "positive_passages": "p", "negative_passages": []},
        "positive_passages.0.text: text stands where a list should be",
    ),
    "an unanswerable question": ("mkqa-Japanese", mkqa("ja", "q", None), "answers.ja.0.text is null, not text"),
    "another language": ("mkqa-Japanese", mkqa("zh_cn", "q", "a"), "answers.ja.0.text: null stands where a list"),
    "no such language": ("mkqa-Japanese", {"queries": {}, "answers": {}}, "answers.ja.0.text: there is no ja"),
    "held out": ("nvidia/HelpSteer2", {**HELPSTEER2, "split": "validation"}, "its split is validation, not train"),
    "a tie": ("nvidia/HelpSteer3", {**HELPSTEER3, "overall_preference": 0}, "overall_preference is 0: none"),
    "no columns": ("stanfordnlp/SHP", {"history": Q}, "the row lacks human_ref_A, human_ref_B, labels"),
}


@pytest.mark.parametrize(("name", "row", "reason"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_rows_that_cannot_be_used_name_the_path(name, row, reason):
    with pytest.raises(RowProblem) as caught:
        convert(row, shape_of(name), HERE)
    assert reason in str(caught.value)


def test_names_and_aliases_find_their_entry():
    assert find_entry("dahoas/RM-static").name == "Dahoas/rm-static"
    assert find_entry("nvidia/HelpSteer2-Preference") is find_entry("nvidia/helpsteer2")
    assert find_entry("my/data") is None
    assert find_entry("mkqa-Chinese").path == "apple/mkqa"
    names = [name.casefold() for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


def test_a_data_set_with_two_layouts_is_read_by_the_one_that_fits():
    assert [entry.name for entry in entries_of("nvidia/HelpSteer2")] == [
        "nvidia/HelpSteer2",
        "nvidia/HelpSteer2-scores",
    ]
    candidates = named_shapes("auto", "nvidia/HelpSteer2")
    assert detect_shape([HELPSTEER2], candidates, "x").name == "nvidia/HelpSteer2"
    assert detect_shape([{"messages": dialogue(GOOD)}], candidates, "x").name == "messages"
    scored = detect_shape(SCORED, candidates, "x")
    assert scored.name == "nvidia/HelpSteer2-scores" and scored.join is not None


def test_other_paths_are_read_by_their_columns():
    assert named_shapes("auto", "my/data") == SHAPES
