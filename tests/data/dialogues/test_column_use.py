"""What a row says beside its texts is used, refused with a reason, or named as not read; never passed over."""

from __future__ import annotations

import json

import pytest

from rlhfcli.cli.views.data_view import tables
from rlhfcli.data.dialogues.column_use import ColumnUse, WatchedRow, column_notes
from rlhfcli.data.dialogues.dialogue import Origin, Turn
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape, shape_of
from rlhfcli.data.sources.shaping import Shaping
from rlhfcli.data.templates.template import ignored_by, set_template
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import SourceSection
from tests.data.conftest import pair

HERE = Origin("rows.jsonl", "line 7")
USER, ANSWER = {"role": "user", "content": "How high?"}, {"role": "assistant", "content": "2 m."}
TOOL = {"name": "tide", "parameters": {"type": "object", "properties": {}}}
OPENAI = [{"type": "function", "function": TOOL}]
PAIR = {"prompt": "How high?", "chosen": "2 m.", "rejected": "No."}


def read(row):
    return convert(row, detect_shape([row], SHAPES, "rows.jsonl"), HERE)


TOOLS = {
    "OpenAI's list": ({"tools": OPENAI}, OPENAI),
    "functions alone": ({"functions": [TOOL]}, OPENAI),
    "one function": ({"tools": TOOL}, OPENAI),
    "a JSON text, as ShareGPT's": ({"tools": json.dumps([TOOL])}, OPENAI),
    "a list of JSON texts": ({"tools": [json.dumps(OPENAI[0])]}, OPENAI),
    "nulls of an Arrow table": ({"tools": [{**TOOL, "strict": None}]}, OPENAI),
    "none": ({"tools": []}, None),
    "an empty list as text": ({"tools": "[]"}, None),
    "null": ({"tools": None}, None),
}


@pytest.mark.parametrize(("columns", "tools"), TOOLS.values(), ids=TOOLS.keys())
@pytest.mark.parametrize("row", [{"messages": [USER, ANSWER]}, PAIR], ids=["dialogue", "preference"])
def test_tools(row, columns, tools):
    found = read({**row, **columns}).tools
    assert (json.loads(found) if found else None) == tools


THINKING = [{"type": "thinking", "thinking": "It is low."}, {"type": "text", "text": "2 m."}]
TURNS = {  # keys of the assistant's message → reasoning, learnt
    "reasoning_content": ({"reasoning_content": "It is low."}, "It is low.", True),
    "thinking": ({"thinking": "It is low."}, "It is low.", True),
    "reasoning": ({"reasoning": "It is low."}, "It is low.", True),
    "Anthropic's parts": ({"content": THINKING}, "It is low.", True),
    "no reasoning": ({"reasoning_content": ""}, "", True),
    "weight": ({"weight": 0}, "", False),
    "weight 1": ({"weight": 1.0}, "", True),
    "train": ({"train": False}, "", False),
    "trainable": ({"trainable": False}, "", False),
    "training": ({"training": False}, "", False),
    "loss": ({"loss": False}, "", False),
    "loss_weight": ({"loss_weight": 0.0}, "", False),
    "loss_mask": ({"loss_mask": 0}, "", False),
    "loss_scale": ({"loss_scale": 0}, "", False),
    "masked": ({"masked": True}, "", False),
    "not masked": ({"masked": False}, "", True),
    "a text": ({"train": "false"}, "", False),
    "null": ({"weight": None, "reasoning_content": None}, "", True),
}


@pytest.mark.parametrize(("keys", "reasoning", "train"), TURNS.values(), ids=TURNS.keys())
def test_reasoning_and_what_is_learnt(keys, reasoning, train):
    found = read({"messages": [USER, {**ANSWER, **keys}, {"role": "user", "content": "Sure?"}, ANSWER]})
    assert found.turns[1] == Turn("assistant", "2 m.", reasoning, train)


def test_what_follows_the_last_learnt_turn_teaches_nothing():
    found = read({"messages": [USER, ANSWER, {"role": "user", "content": "Sure?"}, {**ANSWER, "train": False}]})
    assert found.last_answer == 1


LABELS = {
    "TRL's": ({"prompt": "a", "completion": "b"}, "label"),
    "LLaMA-Factory's": ({"instruction": "a", "input": "", "output": "b"}, "kto_tag"),
    "messages": ({"messages": [USER, ANSWER]}, "label"),
}


@pytest.mark.parametrize(("row", "label"), LABELS.values(), ids=LABELS.keys())
def test_answers_that_people_do_not_want_are_not_imitated(row, label):
    for good in (True, "true", "True"):
        assert read({**row, label: good}).turns[-1].role == "assistant"
    for bad in (False, "false", "False"):
        with pytest.raises(RowProblem, match=f"{label} is false: an unwanted answer") as caught:
            read({**row, label: bad})
        assert not caught.value.invalid


PROBLEMS = {
    "a weight between": ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "has weight 0.5: a turn is learnt (1, true)"),
    "a weight above": ({"messages": [USER, {**ANSWER, "loss_scale": 2}]}, "has loss_scale 2"),
    "parts of a turn": ({"messages": [USER, {**ANSWER, "train_detail": [{"begin": 0}]}]}, "has train_detail"),
    "nothing to learn": ({"messages": [USER, {**ANSWER, "train": False}]}, "none of the assistant's turns is to be"),
    "images": ({"messages": [USER, ANSWER], "images": ["a.jpg"]}, "images is not empty: the row is about more than"),
    "audio": ({"prompt": "a", "response": "b", "audio": "a.wav"}, "audio is not empty"),
    "an image as a part": (
        {"messages": [{"role": "user", "content": [{"type": "image", "text": None}]}, ANSWER]},
        "messages: turn 1 (user) has a part of type image: only text can be read",
    ),
    "an image_url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
        "has a part of type image_url",
    ),
    "a part without a type": (
        {"messages": [{"role": "user", "content": [{"image": "x"}]}, ANSWER]},
        "has a part of type image",
    ),
    "a number in a part": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": 1}]}]},
        "has a part whose text is a number",
    ),
    "reasoning of a prompt": (
        {"prompt": [{"type": "thinking", "thinking": "x"}], "response": "a"},
        "prompt has a part of reasoning",
    ),
    "tools of text": ({"messages": [USER, ANSWER], "tools": "a hammer"}, "tools is text, not a list of tools"),
    "tools that are cut off": ({"messages": [USER, ANSWER], "tools": '[{"na'}, "tools is a text that is not JSON"),
    "tools of a number": ({"messages": [USER, ANSWER], "tools": 3}, "tools is a number, not a list of tools"),
    "a tool of text": ({"messages": [USER, ANSWER], "tools": [3]}, "tools: number 1 is a number, not a tool"),
}


@pytest.mark.parametrize(("row", "reason"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_cannot_be_used_is_refused_with_its_reason(row, reason):
    with pytest.raises(RowProblem) as caught:
        read(row)
    assert reason in str(caught.value)


CONTENTS = {
    "parts": [{"type": "text", "text": "How "}, {"type": "text", "text": "high?"}],
    "parts with a value": [{"type": "text", "value": "How high?"}],
    "parts of text": ["How ", "high?"],
    "without a type": [{"text": "How high?"}],
    "nulls of an Arrow table": [{"type": "text", "text": "How high?", "image": None}, {"type": "text", "text": None}],
    "as a Responses message": [{"type": "input_text", "text": "How high?"}],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_content_in_parts(content):
    for message in ({"role": "user", "content": content}, {"from": "human", "value": content}):
        assert read({"messages": [message, ANSWER]}).turns[0] == Turn("user", "How high?")


UNREAD = {  # a row → the columns that nobody reads
    "none": ({**PAIR, "kind": "x", "margin": 2}, []),
    "empty columns do not count": ({**PAIR, "id": None, "topics": [], "note": "", "score": float("nan")}, []),
    "others": ({**PAIR, "id": 0, "source": "x"}, ["id", "source"]),
    "half a margin": ({**PAIR, "chosen_score": 2}, ["chosen_score"]),
    "a second system": ({**PAIR, "system": "Be kind.", "system_prompt": "Be brief."}, ["system_prompt"]),
    "a class": ({"prompt": "a", "response": "b", "label": 3}, ["label"]),
    "keys of messages": ({"messages": [USER, {**ANSWER, "name": "Bo", "id": None}]}, ["messages[].name"]),
    "reasoning of a chosen answer": (
        {**PAIR, "chosen": [{**ANSWER, "reasoning_content": "It is low."}]},
        ["chosen[-1]: reasoning of the answer"],
    ),
}


@pytest.mark.parametrize(("row", "columns"), UNREAD.values(), ids=UNREAD.keys())
def test_columns_that_nobody_reads_are_counted(row, columns):
    use, watched = ColumnUse(), WatchedRow(row)
    use.add(watched, read(watched))
    assert list(use.shares()) == columns


def test_columns_are_named_with_their_share_of_the_rows():
    shares, carried = {"": 1.0, "context": 0.8, "id": 1.0, "x": 0.001, "y": 0.999}, {"tools": 1, "reasoning": 1200}
    assert column_notes(shares, carried, ["reasoning"]) == [
        "columns not read: one without a name, context (80 %), id, x (under 1 %), y (99 %)",
        "tools are given to the chat template: 1 row",
        "reasoning is left out, because the chat template has no words for it: 1,200 rows",
    ]


def test_the_output_and_the_manifest_name_them(tokenizer, make_recipe, write_lines, tmp_path, notes):
    rows = [{**pair(number), "id": number, "topic": "sea" if number % 2 else None} for number in range(40)]
    prepared = prepare(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data", notes)
    (source,) = prepared.manifest["sources"]
    assert source["columns_not_read"] == {"id": 1.0, "topic": 0.5}
    assert any("columns not read: id, topic (50 %)" in note for note in notes.notes)
    assert "columns not read: id, topic (50 %)" in (tables(prepared.manifest)[0].note or "")


def test_the_good_answers_of_kto_data_are_learnt_and_the_others_counted(
    tokenizer, make_recipe, write_lines, tmp_path, notes
):
    rows = [
        {"prompt": f"{k}?", "completion": f"{k} {good}", "label": good} for k in range(40) for good in (True, False)
    ]
    prepared = prepare(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data", notes)
    (source,) = prepared.manifest["sources"]
    assert source["dropped"] == {"label is false: an unwanted answer, which SFT does not imitate": 40}
    assert source["kept"] == 40 and source["faults"] == 0
    texts = [tokenizer.decode(each.ids) for part in ("train", "validation") for each in prepared.dialogues(part)]
    assert len(texts) == 40 and not any("False" in text for text in texts)


def test_rows_that_differ_beside_their_texts_are_no_duplicates(tokenizer, make_recipe, write_lines, tmp_path, notes):
    talk = [USER, ANSWER]
    rows = [{"messages": talk, "tools": [{**TOOL, "name": f"tide_{k}"}]} for k in range(20)]
    rows += [{"messages": [USER, {**ANSWER, "reasoning_content": f"{k} m"}]} for k in range(20)]
    rows += [{"messages": [*talk, {"role": "user", "content": "Sure?"}, ANSWER]}]
    rows += [{"messages": [USER, {**ANSWER, "train": False}, {"role": "user", "content": "Sure?"}, ANSWER]}]
    rows += [{"messages": [{"role": "user", "content": f"{k}?"}, ANSWER]} for k in range(20)]
    rows += [{"messages": talk, "tools": [{**TOOL, "name": "tide_0"}], "id": k} for k in range(2)]
    prepared = prepare(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data", notes)
    (source,) = prepared.manifest["sources"]
    assert source["dropped"] == {"duplicate but for columns that are not read": 2}
    assert source["carried"] == {"tools": 22, "reasoning": 20, "turns not learnt": 1}
    assert prepared.manifest["ignored"] == ["tools", "reasoning", "calls"]  # human_assistant has words for turns alone
    assert any("tools are left out, because the chat template has no words for them: 22" in n for n in notes.notes)


WORDS = {  # a template → what it leaves out
    "both": (
        "{{ tools | tojson if tools }}{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}{% endfor %}",
        [],
    ),
    "tools": ("{{ tools | tojson if tools }}{% for m in messages %}{{ m.content }}{% endfor %}", ["reasoning"]),
    "reasoning": ("{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}{% endfor %}", ["tools"]),
    "an error": ("{{ raise_exception('no') }}", []),
}


@pytest.mark.parametrize(("template", "ignored"), WORDS.values(), ids=WORDS.keys())
def test_what_a_template_has_no_words_for(tokenizer, template, ignored):
    tokenizer.chat_template = template
    assert ignored_by(tokenizer) == ignored


def test_plain_text_is_learnt_from_its_first_to_its_last_word(
    make_tokenizer, make_recipe, write_lines, tmp_path, notes
):
    texts = [f"Chapter {k}. The sea was calm." for k in range(20)]
    guanaco = "### Human: {0}?### Assistant: the answer {0}### Human: sure?### Assistant: yes {0}"
    rows = [{"text": text} for text in [*texts, *(guanaco.format(k) for k in range(20)), "<s> x", "sea " * 100]]
    for bos in (None, "<s>"):
        tokenizer = make_tokenizer(bos=bos)
        set_template(tokenizer, "human_assistant")
        prepared = prepare(make_recipe(write_lines(rows), max_length=64), tokenizer, tmp_path / f"{bos}", notes)
        found = [each for part in ("train", "validation") for each in prepared.dialogues(part)]
        begin = bos or ""
        decoded = {tokenizer.decode(each.ids): each for each in found}
        for text in texts:
            example = decoded[f"{begin}{text}</s>"]
            assert example.spans == [(len(begin) > 0, len(example.ids))]
        asked = decoded[f"{begin}Human: 3?\n\nAssistant: the answer 3</s>\n\nHuman: sure?\n\nAssistant: yes 3</s>"]
        assert [tokenizer.decode(asked.ids[a:b]) for a, b in asked.spans] == [" the answer 3</s>", " yes 3</s>"]
        (source,) = prepared.manifest["sources"]
        assert (source["kept"], source["cut"], source["carried"]) == (41, 1, {"plain text": 22, "transcripts": 20})
        assert list(source["dropped"]) == [
            "text holds the special token <s>: give messages, not what a template made of them"
        ]
        assert len(max(found, key=lambda each: len(each.ids)).ids) == 64
    said = "\n".join(notes.notes)
    assert "plain text, all of which is learnt, without the chat template: 22 rows" in said
    assert "text that begins with a speaker (### Human:, Human:) is read as a dialogue: 20 rows" in said


SAILOR = {"persona": "Answer like a sailor.", "prompt": "Hello", "response": "Ahoy"}
MISSPELT = {  # columns of the recipe → what is said
    "the shape's name": ({"sytem": "persona"}, "columns: no shape reads a column 'sytem'; did you mean system?"),
    "the file's name": (
        {"system": "persna"},
        "no row has 'persna', which is to be read as system; did you mean persona?",
    ),
    "neither": ({"system": "xyz"}, "columns: no row has 'xyz', which is to be read as system"),
    "a step too far": (
        {"system": "persona.en"},
        "no row has 'persona.en', which is to be read as system: persona.en: text has no en",
    ),
    "a step that is misspelt": (
        {"prompt": "data.q", "response": "data.anwser"},
        "no row has 'data.anwser', which is to be read as response: there is no anwser; did you mean data.answer?",
    ),
    "a step that is missing in a list": (
        {"response": "data.parts.*.xyz"},
        "no row has 'data.parts.*.xyz', which is to be read as response: there is no xyz, but text, kind",
    ),
}


@pytest.mark.parametrize(("columns", "message"), MISSPELT.values(), ids=MISSPELT.keys())
def test_columns_that_nobody_has_are_errors(tokenizer, make_recipe, write_lines, tmp_path, notes, columns, message):
    data = {"q": "Hello", "answer": "Ahoy", "parts": [{"text": "Ahoy", "kind": "a"}]}
    rows = [{**SAILOR, "prompt": f"Hello {k}", "data": data} for k in range(20)]
    recipe = make_recipe({"path": str(write_lines(rows)), "columns": columns})
    with pytest.raises(DataError) as caught:
        prepare(recipe, tokenizer, tmp_path / "data", notes)
    assert message in str(caught.value) and caught.value.hint


RENAMED = {
    "a column": ({"system": "persona"}, [SAILOR], {}),
    "a path": ({"prompt": "data.q", "response": "data.a"}, [{"data": {"q": "Hello", "a": "Ahoy"}}], {}),
    "a path that only some rows have": (
        {"system": "info.en"},
        [{"prompt": "Hi", "response": "Ho", "info": {}}] * 20
        + [{"prompt": "Hi", "response": "Ho", "info": {"en": "Ay"}}],
        {},
    ),
    "only some rows have it": ({"system": "persona"}, [{"prompt": "Hi", "response": "Ho"}] * 20 + [SAILOR], {}),
    "the file's own": (
        {"response": "prompt_2"},
        [{**SAILOR, "prompt_2": "x"}],
        {"persona": 1.0, "response (its own)": 1.0},
    ),
}


@pytest.mark.parametrize(("columns", "rows", "unread"), RENAMED.values(), ids=RENAMED.keys())
def test_columns_are_renamed(columns, rows, unread):
    use = ColumnUse()
    shaping = Shaping(SourceSection(path="rows.jsonl", columns=columns), use)
    for chunk, shapes in shaping.chunks(iter([(row, HERE) for row in rows]), "rows.jsonl"):
        for row, origin in chunk:
            watched = WatchedRow(row)
            use.add(watched, convert(watched, shape_of(row, shapes), origin))
    shaping.finish()
    assert use.shares() == unread


def test_a_file_of_several_shapes_is_read_row_by_row(tokenizer, make_recipe, write_lines, tmp_path, notes):
    empty = dict.fromkeys(("messages", "prompt", "response", "chosen", "rejected"))
    rows = [empty | {"messages": [{"role": "user", "content": f"a {k}"}, ANSWER]} for k in range(20)]
    rows += [empty | {"prompt": f"b {k}", "response": "yes"} for k in range(20)]
    rows += [empty | pair(k) for k in range(20)]
    prepared = prepare(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data", notes)
    (source,) = prepared.manifest["sources"]
    assert source["shapes"] == ["messages", "prompt_response", "prompt_pairs"] and source["kept"] == 60
    assert sum(source["reward"][part] for part in ("train", "validation")) == 20 and not source["columns_not_read"]
