"""Row shapes: what each becomes, and what is said about rows that cannot be used."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.dialogues.turns import USER_ASSISTANT, RowProblem, split_transcript
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape, named_shapes
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


def without_calls(example):
    """The same with calls of tools as text alone."""
    name = "turns" if isinstance(example, Dialogue) else "prompt"
    return replace(example, **{name: tuple(replace(turn, calls="") for turn in getattr(example, name))})


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


SHAREGPT = {"from": "human", "value": Q}
WORSE = [MESSAGES[0], {"role": "assistant", "content": BAD}]
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CALL = [{"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}, {"role": "tool", "content": "2"}]
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
    "a prompt in the lists, a system turn before": (
        {"prompt": [{"role": "system", "content": "Be kind."}, MESSAGES[0]], "chosen": MESSAGES, "rejected": WORSE},
        [S("Be kind."), U(Q)],
    ),
    "earlier turns before the lists": (
        {"messages": EARLIER, "chosen": MESSAGES, "rejected": WORSE},
        [U("Hi"), A("Hello."), U(Q)],
    ),
    "a system turn in the lists": (
        {
            "prompt": Q,
            "chosen": [{"role": "system", "content": "Be kind."}, *MESSAGES],
            "rejected": [{"role": "system", "content": "Be kind."}, *WORSE],
        },
        [S("Be kind."), U(Q)],
    ),
    "a call of a tool in both lists": (
        {"prompt": MESSAGES[:1], "chosen": [*CALL, MESSAGES[1]], "rejected": [*CALL, WORSE[1]]},
        [U(Q), A('[{"name": "add"}]'), Turn("tool", "2")],
    ),
    "the last question of several": (
        {"prompt": Q, "chosen": [*EARLIER, *MESSAGES], "rejected": [*EARLIER, *WORSE]},
        [U("Hi"), A("Hello."), U(Q)],
    ),
    "an empty prompt beside whole dialogues": ({"prompt": "", "chosen": MESSAGES, "rejected": WORSE}, [U(Q)]),
    "instruction with context": (
        {"instruction": "Add.", "context": "1 + 1", "chosen": GOOD, "rejected": BAD},
        [U("Add.\n1 + 1")],
    ),
    "a dialogue with its answer in it": ({"prompt": Q, "messages": MESSAGES, "chosen": GOOD, "rejected": BAD}, [U(Q)]),
    "the whole dialogue and its ends": ({"messages": MESSAGES, "chosen": MESSAGES, "rejected": WORSE}, [U(Q)]),
    "ShareGPT with its answer in it": (
        {
            "conversations": [SHAREGPT, {"from": "gpt", "value": GOOD}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
        [U(Q)],
    ),
    "ms-swift, an answer": ({"messages": MESSAGES, "rejected_response": BAD}, [U(Q)]),
    "ms-swift, a message": ({"messages": MESSAGES, "rejected_messages": [WORSE[1]]}, [U(Q)]),
    "ms-swift, whole dialogues": ({"messages": MESSAGES, "rejected_messages": WORSE}, [U(Q)]),
    "ms-swift, a query": (
        {"system": "Be kind.", "query": Q, "response": GOOD, "rejected_response": BAD, "history": [["Hi", "Hello."]]},
        [S("Be kind."), U("Hi"), A("Hello."), U(Q)],
    ),
    "chosen_messages": ({"chosen_messages": MESSAGES, "rejected_messages": WORSE}, [U(Q)]),
    "NeMo-RL": (
        {
            "context": MESSAGES[:1],
            "completions": [{"rank": 1, "completion": WORSE[1:]}, {"rank": 0, "completion": MESSAGES[1:]}],
        },
        [U(Q)],
    ),
    "OpenAI": (
        {"input": {"messages": MESSAGES[:1]}, "preferred_output": MESSAGES[1:], "non_preferred_output": WORSE[1:]},
        [U(Q)],
    ),
    "RMB": (
        {
            "pair_uid": "1",
            "conversation_input": MESSAGES[:1],
            "chosen": {"llm_name": "a", "answer": GOOD},
            "reject": {"llm_name": "b", "answer": BAD},
        },
        [U(Q)],
    ),
    "RMB, best of several": (
        {
            "bon_uid": "1",
            "conversation_input": MESSAGES[:1],
            "bon_best": {"llm_name": "a", "answer": GOOD},
            "loser_list": [{"llm_name": "b", "answer": BAD}],
        },
        [U(Q)],
    ),
    "content in parts": (
        {
            "prompt": [{"type": "text", "text": Q}],
            "chosen": [{"role": "assistant", "content": [{"text": GOOD}]}],
            "rejected": BAD,
        },
        [U(Q)],
    ),
    "whole dialogues": (
        {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": BAD}]},
        [U(Q)],
    ),
}


@pytest.mark.parametrize(("row", "turns"), PAIRS.values(), ids=PAIRS.keys())
def test_preferences(row, turns):
    found = read(row)
    assert isinstance(found, Preference) and without_calls(found).prompt == tuple(turns)
    assert (found.answers[0].strip(), found.answers[1].strip()) == (GOOD, BAD)
    assert without_calls(found.preferred()).turns == (*turns, A(found.answers[0]))
    assert (found.order, found.margins) == (((0, 1),), ())


def test_kind_is_carried_through():
    assert read({"prompt": Q, "chosen": GOOD, "rejected": BAD, "kind": "wrong"}).kind == "wrong"


WEBGPT = {
    "question": {"full_text": Q, "dataset": "x", "id": "1"},
    "answer_0": f"{BAD[:-1]}[1][2, 3].",
    "answer_1": GOOD,
    "score_0": -0.5,
    "score_1": 0.5,
}
HELPSTEER2 = {"prompt": Q, "response_1": BAD, "response_2": GOOD, "preference_strength": 2}
HELPSTEER3 = {"context": MESSAGES[:1], "response1": GOOD, "response2": BAD, "overall_preference": -3}
SHP = {"history": Q, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_ratio": 4.0}
SAFE = {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}
PAIR = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
STRENGTHS = {  # a row, and by how much it says that GOOD is preferred to BAD
    "margin": ({**PAIR, "margin": 2}, 2.0),
    "margin of a CSV file": ({**PAIR, "margin": "2.5"}, 2.5),
    "no margin": ({**PAIR, "margin": None}, None),
    "chosen_score": ({**PAIR, "chosen_score": 3, "rejected_score": 1}, 2.0),
    "score_chosen": ({**PAIR, "score_chosen": 7.5, "score_rejected": 7.0}, 0.5),
    "chosen_rating": ({**PAIR, "chosen_rating": 5.0, "rejected_rating": 1.0}, 4.0),
    "only one score": ({**PAIR, "chosen_score": 3}, None),
    "WebGPT": (WEBGPT, 1.0),
    "HelpSteer2": (HELPSTEER2, 2.0),
    "HelpSteer3": (HELPSTEER3, 3.0),
    "SHP": (SHP, math.log(4)),
    "SHP, the first answer": ({**SHP, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1}, math.log(4)),
    "SHP of a CSV file": ({**SHP, "labels": "0", "score_ratio": "4"}, math.log(4)),
    "SHP without a ratio": ({k: v for k, v in SHP.items() if k != "score_ratio"}, None),
    "Safe RLHF": (SAFE, None),
    "Safe RLHF through pandas": ({**SAFE, "better_response_id": 1.0}, None),
    "Safe RLHF, true": ({**SAFE, "better_response_id": True}, None),
    "Safe RLHF, a text": ({**SAFE, "better_response_id": "True"}, None),
    "Safe RLHF, the column": ({**SAFE, "better_response_id": "response_1"}, None),
    "SHP through pandas": ({**SHP, "labels": False, "score_ratio": None}, None),
}


@pytest.mark.parametrize(("row", "margin"), STRENGTHS.values(), ids=STRENGTHS.keys())
def test_scores_and_labels_pick_the_winner_and_say_by_how_much(row, margin):
    found = read(row)
    assert (found.prompt, found.answers, found.order) == ((U(Q),), (GOOD, BAD), ((0, 1),))
    assert found.margins == (() if margin is None else (pytest.approx(margin),))


def completion(text, score):
    return {"model": "m", "response": text, "overall_score": score, "custom_system_prompt": "", "fine-grained_score": 1}


ALL_OF_THREE = ((0, 1), (0, 2), (1, 2))
RANKINGS = {  # a row → answers, comparisons, margins
    "best first": ({"prompt": Q, "answers": ["a", "b", "c"]}, "abc", ALL_OF_THREE, ()),
    "scores": (
        {"prompt": Q, "answers": ["a", "b", "c"], "scores": [1, 4, 2.5]},
        "bca",
        ALL_OF_THREE,
        (1.5, 3.0, 1.5),
    ),
    "ranks": ({"prompt": Q, "answers": ["a", "b", "c"], "ranks": [2, 0, 1]}, "bca", ALL_OF_THREE, ()),
    "scores come before ranks": (
        {"prompt": Q, "answers": ["a", "b"], "scores": [0, 1], "ranks": [0, 1]},
        "ba",
        ((0, 1),),
        (1.0,),
    ),
    "as JSON": ({"prompt": Q, "answers": '["a", "b"]', "scores": "[1, 2]"}, "ba", ((0, 1),), (1.0,)),
    "no scores in this row": ({"prompt": Q, "answers": ["a", "b"], "scores": None}, "ab", ((0, 1),), ()),
    "messages": (
        {"prompt": MESSAGES[:1], "answers": [{"role": "assistant", "content": "a"}, {"from": "gpt", "value": "b"}]},
        "ab",
        ((0, 1),),
        (),
    ),
    "a tie is not compared": (
        {"prompt": Q, "answers": ["a", "b", "c"], "scores": [1, 2, 1]},
        "bac",
        ((0, 1), (0, 2)),
        (1.0, 1.0),
    ),
    "UltraFeedback": (
        {"instruction": Q, "completions": [completion("a", 6.5), completion("b", 8), completion("c", 7)]},
        "bca",
        ALL_OF_THREE,
        (1.0, 1.5, 0.5),
    ),
    "UltraFeedback, as datasets keeps lists of objects": (
        {"instruction": Q, "completions": {"response": ["a", "b"], "overall_score": [1, 2]}},
        "ba",
        ((0, 1),),
        (1.0,),
    ),
    "several right answers": (
        {"prompt": Q, "chosen": ["a", "b"], "rejected": ["c", "d"], "margin": 2},
        "abcd",
        ((0, 2), (0, 3), (1, 2), (1, 3)),
        (2.0, 2.0, 2.0, 2.0),
    ),
    "one right answer": ({"prompt": Q, "chosen": ["a"], "rejected": ["b", "c"]}, "abc", ((0, 1), (0, 2)), ()),
}


@pytest.mark.parametrize(("row", "answers", "order", "margins"), RANKINGS.values(), ids=RANKINGS.keys())
def test_rankings(row, answers, order, margins):
    found = read(row)
    assert (found.prompt, found.answers, found.order) == ((U(Q),), tuple(answers), order)
    assert found.margins == pytest.approx(margins)


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
    assert split_transcript(text, USER_ASSISTANT) == (U("Hi"), A("Hello."), U("你好"))


FIRST = [{"role": "assistant", "content": "Welcome!"}, {"role": "user", "content": Q}]
ARENA = {"prompt": '["a"]', "response_a": '["b"]', "response_b": '["c"]', "winner_model_a": 1, "winner_model_b": 0}
TIE = "both answers have the same score: none is preferred"
RANKING = {"prompt": Q, "answers": ["a", "b", "c"]}
PROBLEMS = {
    "WebGPT, a tie": ({**WEBGPT, "score_0": 0.0, "score_1": 0.0}, TIE),
    "WebGPT without a question": ({**WEBGPT, "question": {"id": "1"}}, "question.full_text: there is no full_text"),
    "WebGPT, a question of text": ({**WEBGPT, "question": Q}, "question.full_text: text has no full_text"),
    "WebGPT, nothing but sources": ({**WEBGPT, "answer_0": "[1][2]"}, "answer_0 is empty"),
    "scores of pairs, a tie": ({**PAIR, "score_chosen": 7, "score_rejected": 7}, TIE),
    "scores that contradict": (
        {**PAIR, "chosen_score": 1, "rejected_score": 2},
        "chosen_score is below rejected_score: the row contradicts itself",
    ),
    "HelpSteer, a tie": ({**HELPSTEER2, "preference_strength": 0}, "preference_strength is 0: none of the answers"),
    "HelpSteer, no number": ({**HELPSTEER3, "overall_preference": None}, "overall_preference is not a number"),
    "SHP, a label of neither": ({**SHP, "labels": 2}, "labels is 2: it names none of the answers"),
    "SHP, a ratio of nothing": ({**SHP, "score_ratio": 0}, "score_ratio is not above 0"),
    "both answers the same": ({**SAFE, "response_0": f" {GOOD}"}, "both answers are the same text"),
    "ranking of one": ({"prompt": Q, "answers": ["a"]}, "only one answer: nothing to compare it with"),
    "ranking, all the same": ({**RANKING, "scores": [1, 1, 1]}, "all answers have the same score"),
    "ranking, scores missing": ({**RANKING, "scores": [1, 2]}, "there are 3 answers, and 2 scores or ranks"),
    "ranking, no scores": ({**RANKING, "ranks": "abc"}, "ranks is not a list of scores"),
    "ranking, a bad score": ({**RANKING, "scores": [1, True, 2]}, "scores: number 2 is not a number"),
    "ranking, not a number": ({**RANKING, "scores": [1, math.nan, 2]}, "scores: number 2 is not a number"),
    "ranking, an empty answer": ({**RANKING, "answers": ["a", ""]}, "answers: number 2 is empty"),
    "ranking of a text": ({**RANKING, "answers": "abc"}, "answers is not a list of answers"),
    "ranking after an answer": ({**RANKING, "prompt": MESSAGES}, "the prompt ends with the assistant's turn"),
    "UltraFeedback, nothing": ({"instruction": Q, "completions": []}, "only one answer"),
    "right and wrong": ({"prompt": Q, "chosen": ["a", "b"], "rejected": ["b"]}, "chosen and rejected are the same"),
    "infinite margin": ({**PAIR, "margin": math.inf}, "margin is not a number"),
    "a call without words": ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "is null, not text"),
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
        {"prompt": MESSAGES, "chosen": "Two.", "rejected": BAD},
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
    "JSON that is cut off": ({"messages": '[{"role": "us'}, "messages is a text that is not JSON"),
    "Python's own writing": ({"messages": str(MESSAGES)}, "messages is a text that is not JSON"),
    "a prompt of a number": ({"prompt": 3, "response": GOOD}, "prompt is a number, not text"),
    "a list of objects for an answer": ({"question": Q, "answer": MESSAGES[:1]}, "answer is not the assistant's turn"),
    "no list": ({"messages": "x"}, "messages is text, not a list of messages"),
    "a number beside a dialogue": (
        {"chosen": 3, "rejected": f"{HH}It is 3."},
        "chosen is a number, neither a text with turns nor a list of messages",
    ),
    "no messages": ({"messages": []}, "messages has no turns"),
    "turn is no message": ({"messages": ["x"]}, "messages: turn 1 is text, not a message"),
    "empty turn": (
        {"messages": [*MESSAGES, {"role": "user", "content": ""}]},
        "messages: turn 3 (user) is empty",
    ),
    "no answer": ({"messages": MESSAGES[:1]}, "no turn is the assistant's"),
    "Safe RLHF, a label of neither": ({**SAFE, "better_response_id": 0.5}, "is 0.5: it names none of the answers"),
    "pair, the assistant first": ({"prompt": FIRST, "chosen": GOOD, "rejected": BAD}, "the assistant speaks first"),
    "HH, the assistant first": (
        {"chosen": f"\n\nAssistant: Hi{HH}{GOOD}", "rejected": f"\n\nAssistant: Hi{HH}{BAD}"},
        "the assistant speaks first",
    ),
    "ranking, the assistant first": ({"prompt": FIRST, "answers": ["a", "b"]}, "the assistant speaks first"),
    "ShareGPT pair, the assistant first": (
        {"conversations": FIRST, "chosen": MESSAGES[1], "rejected": WORSE[1]},
        "the assistant speaks first",
    ),
    "lists, the assistant first": (
        {"chosen": [*FIRST, MESSAGES[1]], "rejected": [*FIRST, WORSE[1]]},
        "the assistant speaks first",
    ),
    "another prompt in the lists": (
        {"prompt": "Who?", "chosen": MESSAGES, "rejected": WORSE},
        "the prompt and chosen do not fit together: chosen begins with another user turn",
    ),
    "answers of different calls": (
        {
            "prompt": Q,
            "chosen": [*CALL, MESSAGES[1]],
            "rejected": [CALL[0], {"role": "tool", "content": "3"}, WORSE[1]],
        },
        "chosen and rejected part before their last answer",
    ),
    "a rejected answer that nobody reads": (
        {"instruction": Q, "output": GOOD, "rejected_answer": BAD},
        "rejected_answer is not read, and makes the row a preference",
    ),
    "system of a number": ({"system": 3, "prompt": Q, "response": GOOD}, "system is a number, not text"),
    "arena, a tie": (
        {"conversation_a": MESSAGES, "conversation_b": WORSE, "winner": "tie (bothbad)"},
        "the vote was tie",
    ),
    "arena, nobody": ({"conversation_a": MESSAGES, "conversation_b": WORSE, "winner": "?"}, "winner is '?'"),
    "arena, other dialogues": (
        {"conversation_a": [*EARLIER, *MESSAGES], "conversation_b": WORSE, "winner": "model_a"},
        "the two conversations part before their last answer",
    ),
    "arena, the same": ({"conversation_a": MESSAGES, "conversation_b": MESSAGES, "winner": "model_a"}, "the same text"),
    "arena texts, a tie": ({**ARENA, "winner_model_a": 0}, "the vote was a tie"),
    "arena texts, no JSON": ({**ARENA, "prompt": "Hi"}, "prompt is a text that is not a JSON list"),
    "arena texts, no answer": ({**ARENA, "response_a": "[null]"}, "response_a: number 1 is null, not text"),
    "arena texts, one more": ({**ARENA, "prompt": '["a", "b"]'}, "prompt has 2 turns, and response_a 1"),
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


def test_a_missing_column_is_the_rows_problem():
    shape = named_shapes("prompt_pairs", "rows.jsonl")[0]
    with pytest.raises(RowProblem, match=r"^the row lacks chosen, rejected$"):
        convert({"prompt": Q, "score": 1}, shape, HERE)


def test_formats_are_named_by_shape_or_family():
    assert [shape.name for shape in named_shapes("sharegpt", "x")] == ["sharegpt_pairs", "sharegpt"]
    assert "prompt_pairs" in [shape.name for shape in named_shapes("pairs", "x")]
    with pytest.raises(DataError, match="there is no format 'alpacca'; did you mean alpaca"):
        named_shapes("alpacca", "x")
    with pytest.raises(DataError, match="did you mean Dahoas/rm-static"):
        named_shapes("dahoas/rm_static", "x")


def test_rows_of_no_known_shape_show_the_columns_and_the_shapes():
    with pytest.raises(DataError) as caught:
        detect_shape([{"question_text": Q, "label": 1}], SHAPES, "rows.jsonl")
    assert "the first one has: question_text, label" in str(caught.value)
    assert "prompt_pairs: prompt, chosen, rejected" in str(caught.value)
