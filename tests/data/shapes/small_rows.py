"""Small rows that tests of shapes share, and how they are read."""

from __future__ import annotations

from dataclasses import replace

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Turn
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape

HERE = Origin("rows.jsonl", "line 7")
U, A, S = (lambda role: lambda text: Turn(role, text))("user"), (lambda text: Turn("assistant", text)), (
    lambda text: Turn("system", text)
)  # fmt: skip
Q, GOOD, BAD = "What is 1 + 1?", "It is 2.", "It is 3."
MESSAGES = [{"role": "user", "content": Q}, {"role": "assistant", "content": GOOD}]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is 1 + 1?\n\nAssistant: "
WORSE = [MESSAGES[0], {"role": "assistant", "content": BAD}]
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CALL = [{"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}, {"role": "tool", "content": "2"}]
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


def read(row):
    return convert(row, detect_shape([row], SHAPES, "rows.jsonl"), HERE)


def without_calls(example):
    """The same with calls of tools as text alone."""
    name = "turns" if isinstance(example, Dialogue) else "prompt"
    return replace(example, **{name: tuple(replace(turn, calls="") for turn in getattr(example, name))})
