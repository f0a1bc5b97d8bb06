"""Row shapes: what each becomes, and what is said about rows that cannot be used."""

from __future__ import annotations

import pytest

from rlhfcli.data.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.formats import SHAPES, convert, detect_shape, named_shapes
from rlhfcli.data.turns import RowProblem, split_transcript
from rlhfcli.errors import DataError

HERE = Origin("rows.jsonl", "line 7")
U, A, S = (lambda role: lambda text: Turn(role, text))("user"), (lambda text: Turn("assistant", text)), (
    lambda text: Turn("system", text)
)  # fmt: skip
Q, GOOD, BAD = "What is 1 + 1?", "It is 2.", "It is 3."
MESSAGES = [{"role": "user", "content": Q}, {"role": "assistant", "content": GOOD}]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is 1 + 1?\n\nAssistant: "


def read(row):
    return convert(row, detect_shape([row], SHAPES, "rows.jsonl"), HERE)


DIALOGUES = {
    "messages": ({"messages": MESSAGES}, [U(Q), A(GOOD)]),
    "messages, system column": ({"messages": MESSAGES, "system": "Be kind."}, [S("Be kind."), U(Q), A(GOOD)]),
    "messages, content parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, MESSAGES[1]]},
        [U(Q), A(GOOD)],
    ),
    "messages, tool turn": (
        {"messages": [MESSAGES[0], {"role": "tool", "content": "2"}, MESSAGES[1]]},
        [U(Q), Turn("tool", "2"), A(GOOD)],
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "human", "value": Q},
                {"from": "gpt", "value": GOOD},
            ]
        },
        [U(Q), A(GOOD)],
    ),
    "alpaca": ({"instruction": "Add.", "input": "1 + 1", "output": GOOD}, [U("Add.\n1 + 1"), A(GOOD)]),
    "alpaca without input": ({"instruction": Q, "input": "", "output": GOOD}, [U(Q), A(GOOD)]),
    "alpaca with history": (
        {"instruction": Q, "output": GOOD, "history": [["Hi", "Hello."]]},
        [U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "prompt and response": ({"prompt": Q, "response": GOOD}, [U(Q), A(GOOD)]),
    "prompt and completion": ({"prompt": Q, "completion": GOOD}, [U(Q), A(GOOD)]),
}


@pytest.mark.parametrize(("row", "turns"), DIALOGUES.values(), ids=DIALOGUES.keys())
def test_dialogues(row, turns):
    assert read(row) == Dialogue(tuple(turns), HERE)


SHAREGPT = {"from": "human", "value": Q}
PAIRS = {
    "text": ({"prompt": Q, "chosen": GOOD, "rejected": BAD}, [U(Q)]),
    "rm-static": (
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is 1 + 1?\n\nAssistant:",
            "chosen": GOOD,
            "rejected": BAD,
        },
        [U("Hi"), A("Hello."), U(Q)],
    ),
    "DeepSpeed-Chat's template": (
        {"prompt": f" Human: {Q} Assistant:", "chosen": GOOD, "rejected": BAD},
        [U(Q)],
    ),
    "answers with their speaker": (
        {"prompt": f"Human: {Q}", "chosen": f"Assistant:{GOOD}", "rejected": f"Assistant:{BAD}"},
        [U(Q)],
    ),
    "messages": ({"prompt": MESSAGES[:1], "chosen": GOOD, "rejected": BAD}, [U(Q)]),
    "one message each": (
        {"prompt": MESSAGES[:1], "chosen": MESSAGES[1], "rejected": [{"role": "assistant", "content": BAD}]},
        [U(Q)],
    ),
    "UltraFeedback": (
        {"prompt": Q, "chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": BAD}]},
        [U(Q)],
    ),
    "sharegpt": (
        {
            "conversations": [SHAREGPT],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
        [U(Q)],
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1 + 1", "chosen": GOOD, "rejected": BAD},
        [U("Add.\n1 + 1")],
    ),
    "Anthropic": ({"chosen": HH + GOOD, "rejected": HH + BAD}, [U("Hi"), A("Hello."), U(Q)]),
    "whole dialogues": (
        {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": BAD}]},
        [U(Q)],
    ),
}


@pytest.mark.parametrize(("row", "turns"), PAIRS.values(), ids=PAIRS.keys())
def test_preferences(row, turns):
    found = read(row)
    assert isinstance(found, Preference) and found.prompt == tuple(turns)
    assert (found.chosen.strip(), found.rejected.strip()) == (GOOD, BAD)
    assert found.preferred().turns == (*turns, A(found.chosen))


def test_margin_and_kind_are_carried_through():
    found = read({"prompt": Q, "chosen": GOOD, "rejected": BAD, "margin": 2, "kind": "wrong"})
    assert (found.margin, found.kind) == (2.0, "wrong")


def test_transcripts_are_split_at_the_speakers():
    text = "\n\nHuman: a\nb: c\n\nAssistant: The Human: said\n\nHuman: d\n\nAssistant: "
    assert split_transcript(text) == (U("a\nb: c"), A("The Human: said"), U("d"))
    assert split_transcript("plain: text") == (U("plain: text"),)
    assert split_transcript("\n\nHuman: 首都は?\n\nAssistant: 東京") == (U("首都は?"), A("東京"))


PROBLEMS = {
    "not an object": ([1], "the row is not an object with columns"),
    "null": ({"prompt": Q, "chosen": None, "rejected": BAD}, "chosen is null, not text"),
    "number": ({"prompt": Q, "chosen": 3, "rejected": BAD}, "chosen is a number, not text"),
    "empty answer": ({"prompt": Q, "chosen": " \n", "rejected": BAD}, "chosen is empty"),
    "empty prompt": ({"prompt": "", "chosen": GOOD, "rejected": BAD}, "prompt is empty"),
    "half a character": (
        {"prompt": Q, "chosen": "a \ud83d", "rejected": BAD},
        "chosen holds half a character, '\\ud83d'",
    ),
    "same answers": (
        {"prompt": Q, "chosen": GOOD, "rejected": GOOD + " "},
        "chosen and rejected are the same text",
    ),
    "margin": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "margin": "big"}, "margin is not a number"),
    "prompt ends with an answer": (
        {"prompt": MESSAGES, "chosen": GOOD, "rejected": BAD},
        "the prompt ends with the assistant's turn",
    ),
    "answer is the user's": (
        {"prompt": Q, "chosen": MESSAGES[0], "rejected": BAD},
        "chosen is not the assistant's turn",
    ),
    "no common prompt": (
        {"chosen": HH + GOOD, "rejected": HH.replace("Hello", "Bye") + BAD},
        "part before their last answer",
    ),
    "no turns": ({"chosen": GOOD, "rejected": BAD}, "chosen has no turns (Human: … Assistant: …)"),
    "unknown role": (
        {"messages": [{"role": "boss", "content": "x"}]},
        "messages: turn 1 has the unknown role 'boss'",
    ),
    "no role": ({"messages": [{"text": "x"}]}, "messages: turn 1 does not say who speaks"),
    "no list": ({"messages": "x"}, "messages is text, not a list of messages"),
    "no messages": ({"messages": []}, "messages has no turns"),
    "turn is no message": ({"messages": ["x"]}, "messages: turn 1 is text, not a message"),
    "empty turn": (
        {"messages": [*MESSAGES, {"role": "user", "content": ""}]},
        "messages: turn 3 (user) is empty",
    ),
    "no answer": ({"messages": MESSAGES[:1]}, "no turn is the assistant's"),
    "answer first": ({"messages": MESSAGES[1:]}, "the assistant speaks first"),
    "empty output": ({"instruction": Q, "output": ""}, "output is empty"),
    "bad history": (
        {"instruction": Q, "output": GOOD, "history": ["x"]},
        "history: entry 1 is not a question",
    ),
}


@pytest.mark.parametrize(("row", "reason"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_rows_that_cannot_be_used_have_a_reason(row, reason):
    shape = SHAPES[0] if isinstance(row, list) else detect_shape([row], SHAPES, "rows.jsonl")
    with pytest.raises(RowProblem) as caught:
        convert(row, shape, HERE)
    assert reason in str(caught.value)


def test_a_missing_column_names_file_line_and_columns():
    shape = named_shapes("prompt_pairs", "rows.jsonl")[0]
    with pytest.raises(DataError) as caught:
        convert({"prompt": Q, "chosen": GOOD, "score": 1}, shape, HERE)
    assert str(caught.value).splitlines()[0] == (
        "rows.jsonl: line 7: the row lacks rejected; rows of the shape prompt_pairs need "
        "prompt, chosen, rejected, this one has prompt, chosen, score"
    )


def test_formats_are_named_by_shape_or_family():
    assert [shape.name for shape in named_shapes("sharegpt", "x")] == ["sharegpt_pairs", "sharegpt"]
    assert "prompt_pairs" in [shape.name for shape in named_shapes("pairs", "x")]
    with pytest.raises(DataError, match="there is no format 'alpacca'; did you mean alpaca"):
        named_shapes("alpacca", "x")


def test_rows_of_no_known_shape_show_the_columns_and_the_shapes():
    with pytest.raises(DataError) as caught:
        detect_shape([{"question_text": Q, "label": 1}], SHAPES, "rows.jsonl")
    assert "the first one has: question_text, label" in str(caught.value)
    assert "prompt_pairs: prompt, chosen, rejected" in str(caught.value)
