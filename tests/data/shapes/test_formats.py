"""Row shapes: what each dialogue becomes."""

from __future__ import annotations

import json
import math

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue, Turn
from rlhfcli.data.dialogues.turns import USER_ASSISTANT_SPEAKERS, split_transcript
from rlhfcli.data.shapes.formats import named_shapes
from rlhfcli.errors import DataError
from tests.data.shapes.small_rows import (
    GOOD,
    HERE,
    HH,
    MESSAGES,
    A,
    Q,
    S,
    U,
    read,
    without_calls,
)

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
    "question and answer": ({"question": Q, "answer": GOOD}, [U(Q), A(GOOD)]),
    "instruction with context": (
        {"instruction": "Add.", "context": "1 + 1", "response": GOOD},
        [U("Add.\n1 + 1"), A(GOOD)],
    ),
    "a call of a tool": (
        {
            "messages": [
                MESSAGES[0],
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}, "id": "é"}]},
                {"role": "tool", "content": "2", "tool_calls": None},
                {"role": "assistant", "content": "Now:", "function_call": {"name": "show"}},
                {"role": "tool", "content": "shown"},
                MESSAGES[1],
            ]
        },
        [
            U(Q),
            A('[{"function": {"name": "add"}, "id": "é"}]'),
            Turn("tool", "2"),
            A('Now:\n{"name": "show"}'),
            Turn("tool", "shown"),
            A(GOOD),
        ],
    ),
    "question with context": ({"question": Q, "context": "Sums.", "answer": GOOD}, [U(f"{Q}\nSums."), A(GOOD)]),
    "instruction with input": (
        {"instruction": "Add.", "input": "1 + 1", "response": GOOD},
        [U("Add.\n1 + 1"), A(GOOD)],
    ),
    "prompt with input": ({"prompt": "Add.", "input": "1 + 1", "response": GOOD}, [U("Add.\n1 + 1"), A(GOOD)]),
    "an input that repeats the prompt": ({"prompt": Q, "input": Q, "response": GOOD}, [U(Q), A(GOOD)]),
    "a transcript with input": (
        {"prompt": "Human: Add.\n\nAssistant:", "input": "1 + 1", "response": GOOD},
        [U("Add.\n1 + 1"), A(GOOD)],
    ),
    "prompt with history": (
        {"prompt": Q, "history": [["Hi", "Hello."]], "response": GOOD},
        [U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "history of messages": (
        {
            "question": Q,
            "history": [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello."}],
            "answer": GOOD,
        },
        [U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "input of a number": ({"instruction": "Is it even?", "input": 0, "output": GOOD}, [U("Is it even?\n0"), A(GOOD)]),
    "input of a list": ({"instruction": "Sort.", "input": [2, "é"], "output": GOOD}, [U('Sort.\n[2, "é"]'), A(GOOD)]),
    "input of an object": ({"instruction": "Who?", "input": {"a": 1}, "output": GOOD}, [U('Who?\n{"a": 1}'), A(GOOD)]),
    "input of NaN": ({"instruction": Q, "input": math.nan, "output": GOOD}, [U(Q), A(GOOD)]),
    "system in parts": (
        {"system": [{"type": "text", "text": "Be kind."}], "instruction": Q, "output": GOOD},
        [S("Be kind."), U(Q), A(GOOD)],
    ),
    "query with history and system": (
        {"system": "Be kind.", "query": Q, "response": GOOD, "history": [["Hi", "Hello."]]},
        [S("Be kind."), U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "exchanges": (
        {
            "system": "Be kind.",
            "conversation": [{"human": "Hi", "assistant": "Hello."}, {"human": Q, "assistant": GOOD}],
        },
        [S("Be kind."), U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "exchanges with input and output": (
        {"conversation": [{"system": "Be kind.", "input": Q, "output": GOOD}]},
        [S("Be kind."), U(Q), A(GOOD)],
    ),
    "a call of a tool before the answer": (
        {
            "prompt": MESSAGES[:1],
            "completion": [
                {"role": "assistant", "tool_calls": [{"name": "add"}]},
                {"role": "tool", "content": "2"},
                MESSAGES[1],
            ],
        },
        [U(Q), A('[{"name": "add"}]'), Turn("tool", "2"), A(GOOD)],
    ),
    "reasoning of a completion": (
        {"prompt": Q, "completion": [{**MESSAGES[1], "reasoning_content": "Sum."}]},
        [U(Q), Turn("assistant", GOOD, "Sum.")],
    ),
    "messages as JSON": ({"messages": json.dumps(MESSAGES)}, [U(Q), A(GOOD)]),
    "messages as datasets keeps lists of objects": (
        {"messages": {"role": ["user", "assistant"], "content": [Q, GOOD]}},
        [U(Q), A(GOOD)],
    ),
    "plain text": ({"text": GOOD, "label": 3}, [A(GOOD)]),
    "Guanaco": (
        {"text": f"### Human: Hi### Assistant: Hello.\n### Human: {Q}### Assistant: {GOOD}"},
        [U("Hi"), A("Hello."), U(Q), A(GOOD)],
    ),
    "a transcript alone": ({"text": HH + GOOD}, [U("Hi"), A("Hello."), U(Q), A(GOOD)]),
    "a conversation of messages": ({"conversation": MESSAGES}, [U(Q), A(GOOD)]),
    "a dialogue of messages": ({"dialogue": MESSAGES}, [U(Q), A(GOOD)]),
    "input and output": ({"input": Q, "output": GOOD}, [U(Q), A(GOOD)]),
    "joined tables": (
        {"messages": None, "chosen": None, "rejected": None, "prompt": Q, "response": GOOD},
        [U(Q), A(GOOD)],
    ),
    "joined messages": (
        {
            "messages": [
                {"role": None, "from": "human", "content": None, "value": Q},
                {"role": None, "from": "gpt", "content": None, "value": GOOD},
            ]
        },
        [U(Q), A(GOOD)],
    ),
    "a prompt of several turns": ({"prompt": HH, "response": GOOD}, [U("Hi"), A("Hello."), U(Q), A(GOOD)]),
    "a dialogue of the middle kingdom": (
        {"prompt": "Human：你好\n\nAssistant：您好！\n\nHuman：一加一？", "response": "二。"},
        [U("你好"), A("您好！"), U("一加一？"), A("二。")],
    ),
}


@pytest.mark.parametrize(("row", "turns"), DIALOGUES.values(), ids=DIALOGUES.keys())
def test_dialogues(row, turns):
    assert without_calls(read(row)) == Dialogue(tuple(turns), HERE)


ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLS = {  # a message → its words, and the calls that a chat template is given
    "OpenAI's": ({"tool_calls": [{**ADD, "id": "c1"}]}, "", [{**ADD, "id": "c1"}]),
    "arguments as text": ({"tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}, "", [ADD]),
    "the function alone": ({"tool_calls": [ADD["function"]]}, "", [ADD]),
    "with words": ({"content": "Now:", "function_call": ADD["function"]}, "Now:", [ADD]),
    "nulls of an Arrow table": ({"tool_calls": [{**ADD, "id": None}]}, "", [ADD]),
    "ShareGPT's": ({"role": "function_call", "content": json.dumps(ADD["function"])}, "", [ADD]),
    "ms-swift's": ({"role": "tool_call", "content": json.dumps([ADD["function"]])}, "", [ADD]),
}
NO_CALLS = {
    "none": {"content": "Now.", "tool_calls": []},
    "no name": {"tool_calls": [{"id": "x"}]},
    "arguments of no object": {"tool_calls": [{"name": "add", "arguments": "1, 2"}]},
    "a call of text": {"role": "function_call", "content": "add(1, 2)"},
}


@pytest.mark.parametrize(("message", "words", "calls"), CALLS.values(), ids=CALLS.keys())
def test_calls_of_tools(message, words, calls):
    turn = read({"messages": [MESSAGES[0], {"role": "assistant", "content": None, **message}]}).turns[1]
    assert json.loads(turn.calls) == {"content": words, "tool_calls": calls}
    assert turn.content.startswith(words) and '"add"' in turn.content


@pytest.mark.parametrize("message", NO_CALLS.values(), ids=NO_CALLS.keys())
def test_what_is_no_call_is_text(message):
    turn = read({"messages": [MESSAGES[0], {"role": "assistant", "content": None, **message}]}).turns[1]
    assert turn.calls == "" and turn.content


def test_transcripts_are_split_at_the_speakers():
    text = "\n\nHuman: a\nb: c\n\nAssistant: The Human: said\n\nHuman: d\n\nAssistant: "
    assert split_transcript(text) == (U("a\nb: c"), A("The Human: said"), U("d"))
    assert split_transcript("plain: text") == (U("plain: text"),)
    assert split_transcript("\n\nHuman: 首都は?\n\nAssistant: 東京") == (U("首都は?"), A("東京"))


TRANSCRIPTS = {
    "full-width colons": ("Human：你好\nAssistant：您好", [U("你好"), A("您好")]),
    "full-width colons in one line": (
        "Human：你好。Assistant：您好！Human：再见",
        [U("你好。"), A("您好！"), U("再见")],
    ),
    "no space after the colon": ("Human:你好 Assistant:您好", [U("你好"), A("您好")]),
    "an indented turn": ("\u3000Human：猫は?\n\u3000Assistant：はい。", [U("猫は?"), A("はい。")]),
    "mixed colons": ("Human: 首都は?\n\nAssistant：東京\n\nHuman：本当?", [U("首都は?"), A("東京"), U("本当?")]),
    "a word in a sentence": ("Human：什么是Human：这个词\n\nAssistant：词", [U("什么是Human：这个词"), A("词")]),
    "a sentence in one line": ("Human: Is theHuman: fine? Assistant:", [U("Is theHuman: fine?")]),
    "other words are text": ("人类：你好\n助手：您好", [U("人类：你好\n助手：您好")]),
    "USER is no speaker here": ("USER: Hi\nASSISTANT: Hello", [U("USER: Hi\nASSISTANT: Hello")]),
}


@pytest.mark.parametrize(("text", "turns"), TRANSCRIPTS.values(), ids=TRANSCRIPTS.keys())
def test_borders_of_turns(text, turns):
    assert split_transcript(text) == tuple(turns)


def test_other_speakers_only_where_they_are_asked_for():
    text = "USER: Hi ASSISTANT: Hello. USER: 你好 ASSISTANT:"
    assert split_transcript(text, USER_ASSISTANT_SPEAKERS) == (U("Hi"), A("Hello."), U("你好"))


def test_formats_are_named_by_shape_or_family():
    assert [shape.name for shape in named_shapes("sharegpt", "x")] == ["sharegpt_pairs", "sharegpt"]
    assert "prompt_pairs" in [shape.name for shape in named_shapes("pairs", "x")]
    with pytest.raises(DataError, match="there is no format 'alpacca'; did you mean alpaca"):
        named_shapes("alpacca", "x")
    with pytest.raises(DataError, match="did you mean Dahoas/rm-static"):
        named_shapes("dahoas/rm_static", "x")
