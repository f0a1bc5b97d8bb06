"""Examples that are spread over several rows."""

from __future__ import annotations

import pytest

from rlhfcli.data.dialogues.dialogue import Origin, Preference
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.reading.rows import Unreadable, check_readable
from rlhfcli.data.shapes.formats import convert, detect_shape
from tests.data.catalogue_rows import BAD, GOOD, SCORED, TREE, message, plain, shape_of


def joined(name, rows):
    """What becomes of rows: (where, example or reason)."""
    shape = shape_of(name)
    located = [(row, Origin("f", f"line {number}")) for number, row in enumerate(rows, 1)]
    assert detect_shape(rows[:1], (shape,), "f") is shape
    found = []
    for row, origin in shape.join(iter(located)):
        try:
            found.append((origin.row, convert(check_readable(row), shape, origin)))
        except RowProblem as problem:
            found.append((origin.row, str(problem)))
    return found


@pytest.mark.parametrize("name", ["OpenAssistant/oasst1", "OpenAssistant/oasst2"])
def test_trees_of_messages_become_rankings_and_dialogues(name):
    found = dict(joined(name, TREE))
    ranking = found.pop("line 1")
    assert ranking.answers == ("Hello! How are you?", "Hello.", "What?")
    assert (ranking.order, ranking.margins, ranking.kind) == (((0, 1), (0, 2), (1, 2)), (), "en")
    assert plain(ranking.prompt) == [("user", "Hi")]
    assert [text for _, text in plain(found.pop("line 5").turns)] == [
        "Hi", "Hello! How are you?", "Well. And you?", "I am a program."
    ]  # fmt: skip
    assert plain(found.pop("line 11").turns) == [
        ("user", "A question of one answer"), ("assistant", "Only this."), ("user", "Thanks"), ("assistant", "Welcome.")
    ]  # fmt: skip
    assert found == {  # nothing else, and line 9 is a part of line 11
        "line 7": "nobody replied to the message",
        "line 10": "the message was deleted",
        "line 13": "the message that it replies to is not in the data",
    }


def test_every_message_of_a_tree_is_used_or_has_a_reason():
    used, reasons = set(), 0
    for _, found in joined("OpenAssistant/oasst1", TREE):
        if isinstance(found, str):
            reasons += 1
        else:
            used |= {turn.content for turn in (found.prompt if isinstance(found, Preference) else found.turns)}
            used |= set(found.answers) if isinstance(found, Preference) else set()
    assert len(used) + reasons == len(TREE)


def contents(found):
    """What examples say, without the place where they stood."""
    return sorted(
        str(
            example
            if isinstance(example, str)
            else (example.prompt, example.answers)
            if isinstance(example, Preference)
            else example.turns
        )
        for _, example in found
    )


def test_messages_in_any_order_and_broken_trees():
    assert contents(joined("OpenAssistant/oasst1", TREE[::-1])) == contents(joined("OpenAssistant/oasst1", TREE))
    ring = [message("1", "3", "a"), message("1a", "1", "b"), message("3", "1", "c")]
    assert [reason for _, reason in joined("OpenAssistant/oasst1", ring)] == [
        "the beginning of its conversation is not in the data"
    ] * 2
    broken = [TREE[0], {"text": "no parent"}, Unreadable("not JSON", "x")]
    found = dict(joined("OpenAssistant/oasst1", broken))
    assert found["line 3"] == "not JSON"
    assert found["line 2"] == "the row lacks messages"


def test_rows_of_the_same_prompt_become_a_ranking():
    found = joined("nvidia/HelpSteer2-scores", [*SCORED, [1], Unreadable("not JSON", "x")])
    (first, ranking), (last, other) = found[0], found[3]
    assert (first, ranking.answers, ranking.margins) == ("line 1", (GOOD, BAD), (3.0,))
    assert (last, other.answers) == ("line 6", ("again", "late"))  # neighbours only: the file is not held in memory
    assert [reason for _, reason in (*found[1:3], *found[4:])] == [
        "both answers have the same score: none is preferred",
        "there is only one answer: nothing to compare it with",
        "the row is not an object with columns",
        "not JSON",
    ]
