"""Row shapes: what is said about rows that cannot be used."""

from __future__ import annotations

import math

import pytest

from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape, named_shapes
from rlhfcli.errors import DataError
from tests.data.shapes.small_rows import (
    BAD,
    CALL,
    EARLIER,
    GOOD,
    HELPSTEER2,
    HELPSTEER3,
    HERE,
    HH,
    MESSAGES,
    PAIR,
    SAFE,
    SHP,
    WEBGPT,
    WORSE,
    Q,
)

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
    "negative margin": ({**PAIR, "margin": -0.5}, "margin is -0.5, below zero: the row contradicts itself"),
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
    "Python's own writing": (
        {"messages": str(MESSAGES)},
        "messages is a list as Python prints it, not JSON: json.dumps",
    ),
    "pandas' own writing": ({"messages": f"[{MESSAGES[0]}\n {MESSAGES[1]}]"}, "messages is a list as Python prints it"),
    "an object of Python": ({"messages": str(MESSAGES[0])}, "messages is an object as Python prints it, not JSON"),
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


def test_rows_of_no_known_shape_show_the_columns_and_the_shapes():
    with pytest.raises(DataError) as caught:
        detect_shape([{"question_text": Q, "label": 1}], SHAPES, "rows.jsonl")
    assert "the first one has: question_text, label" in str(caught.value)
    assert "prompt_pairs: prompt, chosen, rejected" in str(caught.value)
