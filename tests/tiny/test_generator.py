"""The generated texts: seeded, well-formed, and without test prompts in training."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from rlhfcli.tiny import RECALL_SKILLS, SKILLS, dialogues, plain_text, preference_pairs, test_prompts
from rlhfcli.tiny.world.names import name_split
from rlhfcli.tiny.world.split import split_of

Row = dict[str, Any]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.fixture(scope="module")
def training_text() -> str:
    """Everything that training could see, in a large sample: dialogues, pairs and pre-training text."""
    parts = [m["content"] for row in dialogues(12_000, 1) for m in row["messages"]]
    for row in preference_pairs(8_000, 1, "train"):
        parts += [m["content"] for m in row["prompt"]] + [row["chosen"], row["rejected"]]
    parts += list(plain_text(12_000, 1))
    return "\n".join(parts)


def _told_names(messages: list[dict[str, str]]) -> set[str]:
    """Names stated by the user of a prompt, read off the assistant's replies."""
    replies = " ".join(m["content"] for m in messages if m["role"] == "assistant")
    return set(re.findall(r"Nice to meet you, (\w+)!", replies)) | set(re.findall(r"(\w+) is a nice name", replies))


def _conversation_with_gaps(messages: list[dict[str, str]]) -> str:
    return "\n".join(m["content"] for m in messages)


def test_skills() -> None:
    assert len(SKILLS) >= 16 and len(set(SKILLS)) == len(SKILLS)
    assert {"recall_name", "recall_favourite", "use_name"} <= set(RECALL_SKILLS) <= set(SKILLS)
    assert {row["skill"] for row in test_prompts(2, 1)} == set(SKILLS)
    assert {row["skill"] for row in dialogues(2000, 1)} == set(SKILLS)


def test_seeded() -> None:
    assert list(dialogues(50, 3)) == list(dialogues(50, 3)) != list(dialogues(50, 4))
    assert list(dialogues(50, 3)) == list(dialogues(90, 3))[:50]
    assert list(test_prompts(3, 3)) == list(test_prompts(3, 3)) != list(test_prompts(3, 4))
    assert list(plain_text(20, 3)) == list(plain_text(20, 3)) != list(plain_text(20, 4))


def test_fast() -> None:
    start = time.process_time()
    assert len(list(dialogues(5000, 1))) == 5000
    assert time.process_time() - start < 3


def test_dialogues_are_one_to_six_turns() -> None:
    turns = set()
    for row in dialogues(2000, 2):
        messages = row["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(m["content"].strip() == m["content"] != "" for m in messages)
        turns.add(len(messages) // 2)
    assert turns == {1, 2, 3, 4, 5, 6}


def test_name_is_asked_for_over_several_distances() -> None:
    distances, untold = set(), 0
    for row in test_prompts(200, 5):
        if row["skill"] != "recall_name":
            continue
        asked = len(row["messages"]) - 1
        told = [i for i, m in enumerate(row["messages"]) if m["content"].startswith("Nice to meet you")]
        if not told:
            untold += 1
            assert row["accepted"] == ["I don't know your name yet."]
        else:
            assert row["accepted"][0] in row["messages"][told[-1]]["content"].replace(
                "Nice to meet you,", "Your name is"
            ).replace("!", ".")
            distances.add((asked - told[-1] + 1) // 2)
    assert {1, 2, 3, 4, 5} <= distances
    assert 20 < untold < 120


def test_test_prompts_never_occur_in_training(training_text: str) -> None:
    seen = _words(training_text)
    for row in test_prompts(100, 11):
        messages = row["messages"]
        last = messages[-1]["content"]
        told = _told_names(messages[:-1])
        assert not {name for name in told if name_split(name) == "test"} & seen
        if row["skill"] == "tell_favourite" or row["skill"] not in RECALL_SKILLS:
            assert last not in training_text, row
        else:  # the question itself is common: what was told, or the turn before, is not
            assert _conversation_with_gaps(messages[:-1]) not in training_text, row
            if told:
                continue
            held_out = [
                m["content"] for m in messages[:-1] if m["role"] == "user" and m["content"] not in training_text
            ]
            assert held_out, row


def test_test_pairs_never_occur_in_training(training_text: str) -> None:
    for row in preference_pairs(2000, 12, "test"):
        users = [m["content"] for m in row["prompt"] if m["role"] == "user"]
        assert any(text not in training_text for text in users), row


def test_no_test_name_in_training(training_text: str) -> None:
    replies = re.findall(r"(?:Nice to meet you, |My name is )(\w+)", training_text)
    assert len(set(replies)) > 3000
    assert all(name_split(name) == "train" for name in replies)


def test_split_is_stable_and_about_15_percent() -> None:
    sides = [split_of(f"capital|1|{i}") for i in range(10_000)]
    assert 0.12 < sides.count("test") / len(sides) < 0.18
    # Changing the hash would let the committed model see test prompts: these must stay as they are.
    assert [split_of(f"name|{name}") for name in ("Anna", "Tom", "Mia", "Leo", "Valimi", "Dagami")] == [
        "train", "train", "train", "test", "train", "test",
    ]  # fmt: skip


def test_plain_text_holds_no_chat_template_and_does_not_end_with_an_answer() -> None:
    for text in plain_text(3000, 9):
        assert "Human:" not in text and "Assistant:" not in text and "</s>" not in text
        assert text.rstrip() == text and text[-1] == "."


def test_no_torch_in_the_generator() -> None:
    import subprocess
    import sys

    code = "import sys, rlhfcli.tiny; list(rlhfcli.tiny.dialogues(3, 1)); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
