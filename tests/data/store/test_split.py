"""A row's place depends on how its conversation begins, and on nothing else."""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.store.split import assigned_phase, conversation_key, part_of, position
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import PhaseSplitSection
from tests.data.conftest import pair

HERE = Origin("test", "row 1")
SHARES = PhaseSplitSection(sft=2.0, reward=4.0, rlhf=4.0)


def preference(prompt: str, chosen: str = "yes", rejected: str = "no") -> Preference:
    return Preference.pair((Turn("user", prompt),), chosen, rejected, HERE)


@given(st.text(), st.text(), st.text())
def test_the_answers_do_not_matter(prompt, first, second):
    key = conversation_key(preference(prompt, first, second))
    assert (
        key == conversation_key(preference(prompt, second, first)) == conversation_key(preference(prompt).preferred())
    )


@given(st.text(alphabet="abc \n", min_size=1))
def test_white_space_and_upper_case_do_not_matter(prompt):
    shouted = conversation_key(preference(f"  {prompt.upper()}\n".replace(" ", "  ")))
    assert shouted == conversation_key(preference(prompt))


@given(st.lists(st.text(), unique_by=lambda text: " ".join(text.split()).casefold()), st.randoms())
def test_rows_keep_their_place_when_others_come_or_move(prompts, order):
    def places(rows):
        keys = {row: conversation_key(preference(row)) for row in rows}
        return {row: (part_of(key, 0.3), assigned_phase(key, SHARES)) for row, key in keys.items()}

    before = places(prompts[: len(prompts) // 2])
    order.shuffle(prompts)
    after = places(prompts)
    assert all(after[row] == place for row, place in before.items())


@given(st.text(), st.floats(0.01, 0.49))
def test_a_larger_validation_share_only_adds(key, share):
    if part_of(key, share) == "validation":
        assert part_of(key, share * 2) == "validation"


def test_proportions_are_as_near_as_chance_allows():
    keys = [conversation_key(preference(f"question {number}")) for number in range(20_000)]
    shares = [assigned_phase(key, SHARES) for key in keys]
    for share, expected in (("sft", 0.2), ("reward", 0.4), ("rlhf", 0.4)):
        assert abs(shares.count(share) / len(keys) - expected) < 4 * (expected * (1 - expected) / len(keys)) ** 0.5
    validation = [part_of(key, 0.1) == "validation" for key in keys]
    assert abs(sum(validation) / len(keys) - 0.1) < 4 * (0.09 / len(keys)) ** 0.5
    # The two decisions are independent of each other.
    both = sum(part and share == "sft" for part, share in zip(validation, shares, strict=True))
    assert abs(both / len(keys) - 0.02) < 4 * (0.02 / len(keys)) ** 0.5


def test_a_phase_without_a_share_gets_nothing():
    assert {assigned_phase(str(n), PhaseSplitSection(sft=1.0, reward=0.0)) for n in range(500)} == {"sft"}
    assert 0 <= min(position(str(n), "phase") for n in range(500)) < 1


SYSTEM, TOLD = Turn("system", "Be kind."), Turn("system", "Be brief.")
GREETING = Turn("assistant", "How can I help?")
A, B, C, D, E = (Turn(role, text) for role, text in zip(("user", "assistant") * 3, "abcde", strict=False))  # type: ignore
OTHER = Turn("user", "something else")
SAME_CONVERSATION = {
    "each answer in a row of its own": ((A, B), (A, B, C, D)),
    "another answer": ((A, B), (A, GREETING)),
    "another way from there": ((A, B, C, D), (A, GREETING, OTHER, B)),
    "with and without a system turn": ((SYSTEM, A, B), (A, B)),
    "under another system turn": ((SYSTEM, A, B), (TOLD, A, D)),
    "the assistant greets": ((GREETING, A, B), (A, B)),
    "a turn behind the last answer": ((A, B, C), (A, B)),
    "other case and spaces": ((A, B), (Turn("user", " A\n"), B)),
    "a system turn and nothing else": ((SYSTEM, B), (SYSTEM, D)),
}
OTHER_CONVERSATION = {
    "one system turn, two questions": ((SYSTEM, A, B), (SYSTEM, OTHER, B)),
    "one greeting, two questions": ((GREETING, A, B), (GREETING, OTHER, B)),
    "the second turn of one is the first of the other": ((A, B, C, D), (C, D)),
    "texts without a prompt": ((B,), (D,)),
}


@pytest.mark.parametrize(("one", "other"), SAME_CONVERSATION.values(), ids=SAME_CONVERSATION.keys())
def test_pieces_of_one_conversation_belong_together(one, other):
    assert conversation_key(Dialogue(one, HERE)) == conversation_key(Dialogue(other, HERE))


@pytest.mark.parametrize(("one", "other"), OTHER_CONVERSATION.values(), ids=OTHER_CONVERSATION.keys())
def test_other_conversations_have_other_places(one, other):
    assert conversation_key(Dialogue(one, HERE)) != conversation_key(Dialogue(other, HERE))


ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=80)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=ROWS, split=st.sampled_from([None, {"sft": 1.0, "reward": 1.0}, {"sft": 2, "reward": 4, "rlhf": 4}]))
def test_in_the_store_no_prompt_stands_on_two_sides(tokenizer, make_recipe, write_lines, tmp_path, numbers, split):
    rows = [pair(number, chosen=f"answer {answer}") for number, answer in numbers]
    settings_ = {} if split is None else {"phase_split": {name: float(share) for name, share in split.items()}}
    folder = tmp_path / "data"
    try:
        prepared = prepare(make_recipe(write_lines(rows), **settings_), tokenizer, folder, Silent())
    except DataError as error:
        assert "is one conversation" in error.what or "is empty" in error.what or "no row is left" in error.what
        return
    parts = ("train", "validation")
    sft = {part: {_question(tokenizer, row.ids) for row in _rows(prepared.dialogues, part)} for part in parts}
    reward = {part: {_question(tokenizer, row.prompt) for row in _rows(prepared.pairs, part)} for part in parts}
    trained, held_out = (sft[part] | reward[part] for part in parts)
    assert not trained & held_out
    for phase in (sft, reward):
        assert all(phase.values()) or not any(phase.values())  # no part is empty unless the phase has nothing
    if split is None:
        assert sft == reward and len(trained | held_out) == len(dict(numbers))
    else:
        assert not (sft["train"] | sft["validation"]) & (reward["train"] | reward["validation"])
    order = sorted(rows, key=str, reverse=True)
    try:
        again = prepare(make_recipe(write_lines([*order, pair(99)]), **settings_), tokenizer, folder, Silent())
    except DataError as error:  # the only row of a phase that had none
        assert "1 row can be used" in error.what
        return
    learnt = {_question(tokenizer, row.ids) for row in _rows(again.dialogues, "train")}
    if prepared.manifest["raised_validation"] is None:  # else one was kept aside that need not be any more
        assert learnt - {"99"} == sft["train"]  # moved and joined by another, every prompt stays where it was


HISTORY_SPLITS = [None, {"sft": 1.0, "reward": 1.0}]


@pytest.mark.parametrize("phase_split", HISTORY_SPLITS, ids=["both phases", "phase_split"])
@pytest.mark.parametrize("system", [False, True], ids=["plain", "one system turn"])
def test_random_answers_of_a_row_per_answer_are_never_learnt_and_measured(
    tokenizer, make_recipe, write_lines, tmp_path, phase_split, system
):
    """A conversation of random answers stands in the file once per answer: what is measured can only be guessed."""
    draw = random.Random(7)
    rows = []
    for number in range(60):
        messages = [{"role": "system", "content": "Be kind."}] if system else []
        for turn in range(4):
            messages.append({"role": "user", "content": f"question {number}" if turn == 0 else f"go on {turn}"})
            said = ["".join(draw.choices(string.ascii_lowercase, k=12)) for _ in range(2)]
            rows.append({"prompt": list(messages), "chosen": said[0], "rejected": said[1]})
            messages.append({"role": "assistant", "content": said[0]})
    recipe = make_recipe(write_lines(rows), **({} if phase_split is None else {"phase_split": phase_split}))
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    said = {part: _answers(tokenizer, prepared, part) for part in ("train", "validation")}
    assert said["validation"] and said["train"] and not said["validation"] & said["train"]
    if phase_split is not None:
        sft = {
            answer for part in ("train", "validation") for answer in _answers(tokenizer, prepared, part, pairs=False)
        }
        assert sft and not sft & _answers(tokenizer, prepared, "train", dialogues=False)
    tokens = prepared.manifest["tokens"]
    for phase in ("sft", "reward"):
        sides = [tokens[f"{phase}_{part}"] for part in ("train", "validation")]
        assert [side["rows"] for side in sides] == [4 * side["conversations"] for side in sides]


def _answers(tokenizer, prepared, part, *, dialogues=True, pairs=True):
    """Everything that the assistant says in a part."""
    rows = [row.ids[begin:end] for row in prepared.dialogues(part) if dialogues for begin, end in row.spans]
    rows += [answer for row in prepared.pairs(part) if pairs for answer in row.answers]
    return {tokenizer.decode(ids) for ids in rows}


def test_few_conversations_still_give_one_to_measure_with(tokenizer, make_recipe, write_lines, tmp_path):
    notes = []
    sink = Silent()
    sink.note = notes.append
    recipe = make_recipe(write_lines([pair(number) for number in range(6)]), validation=0.0001)
    prepared = prepare(recipe, tokenizer, tmp_path / "data", sink)
    sizes = [len(read(part)) for read in (prepared.dialogues, prepared.pairs) for part in ("train", "validation")]
    assert sizes == [5, 1, 5, 1] and prepared.manifest["sources"][0]["kept"] == 6
    assert [note for note in notes if "data.validation: 0.0001 of these few conversations is less than one" in note]
    more = make_recipe(write_lines([pair(number) for number in range(9)]), validation=0.0001)
    (held_out,) = prepared.dialogues("validation")
    again = prepare(more, tokenizer, tmp_path / "more", Silent()).dialogues("train")
    assert len(again) == 8 and sum(row.ids == held_out.ids for row in again) <= 1


def test_rows_of_one_question_are_split_by_their_answers_when_asked(tokenizer, make_recipe, write_lines, tmp_path):
    rows = [pair(1, chosen=f"story {number}") for number in range(40)]
    with pytest.raises(DataError, match="begin with the same question") as caught:
        prepare(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data", Silent())
    assert "40 rows can be used" in caught.value.what and "data.split_by=row" in caught.value.hint
    prepared = prepare(make_recipe(write_lines(rows), split_by="row"), tokenizer, tmp_path / "data", Silent())
    sides = [_answers(tokenizer, prepared, part, pairs=False) for part in ("train", "validation")]
    assert sum(map(len, sides)) == 40 and all(sides) and not set.intersection(*sides)


def _rows(read, part):
    try:
        return list(read(part))
    except DataError:
        return []


def _question(tokenizer, ids):
    return re.search(r"question (\d+)", tokenizer.decode(ids))[1]
