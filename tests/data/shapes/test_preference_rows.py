"""Row shapes: what each preference becomes."""

from __future__ import annotations

import math

import pytest

from rlhfcli.data.dialogues.dialogue import Preference, Turn
from tests.data.shapes.small_rows import (
    BAD,
    CALL,
    EARLIER,
    GOOD,
    HELPSTEER2,
    HELPSTEER3,
    HH,
    MESSAGES,
    PAIR,
    SAFE,
    SHP,
    WEBGPT,
    WORSE,
    A,
    Q,
    S,
    U,
    read,
    without_calls,
)

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
