"""A row's place depends on its prompt alone."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.data.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.prepare import prepare
from rlhfcli.data.split import part_of, position, prompt_key, share_of
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import PhaseSplit
from tests.data.conftest import pair

HERE = Origin("test", "row 1")
SHARES = PhaseSplit(sft=2.0, reward=4.0, rlhf=4.0)


def preference(prompt: str, chosen: str = "yes", rejected: str = "no") -> Preference:
    return Preference.pair((Turn("user", prompt),), chosen, rejected, HERE)


@given(st.text(), st.text(), st.text())
def test_the_answers_do_not_matter(prompt, first, second):
    key = prompt_key(preference(prompt, first, second))
    assert key == prompt_key(preference(prompt, second, first)) == prompt_key(preference(prompt).preferred())


@given(st.text(alphabet="abc \n", min_size=1))
def test_white_space_and_upper_case_do_not_matter(prompt):
    shouted = prompt_key(preference(f"  {prompt.upper()}\n".replace(" ", "  ")))
    assert shouted == prompt_key(preference(prompt))


@given(st.lists(st.text(), unique_by=lambda text: " ".join(text.split()).casefold()), st.randoms())
def test_rows_keep_their_place_when_others_come_or_move(prompts, random):
    def places(rows):
        keys = {row: prompt_key(preference(row)) for row in rows}
        return {row: (part_of(key, 0.3), share_of(key, SHARES)) for row, key in keys.items()}

    before = places(prompts[: len(prompts) // 2])
    random.shuffle(prompts)
    after = places(prompts)
    assert all(after[row] == place for row, place in before.items())


@given(st.text(), st.floats(0.01, 0.49))
def test_a_larger_validation_share_only_adds(key, share):
    if part_of(key, share) == "validation":
        assert part_of(key, share * 2) == "validation"


def test_proportions_are_as_near_as_chance_allows():
    keys = [prompt_key(preference(f"question {number}")) for number in range(20_000)]
    shares = [share_of(key, SHARES) for key in keys]
    for share, expected in (("sft", 0.2), ("reward", 0.4), ("rlhf", 0.4)):
        assert abs(shares.count(share) / len(keys) - expected) < 4 * (expected * (1 - expected) / len(keys)) ** 0.5
    validation = [part_of(key, 0.1) == "validation" for key in keys]
    assert abs(sum(validation) / len(keys) - 0.1) < 4 * (0.09 / len(keys)) ** 0.5
    # The two decisions are independent of each other.
    both = sum(part and share == "sft" for part, share in zip(validation, shares, strict=True))
    assert abs(both / len(keys) - 0.02) < 4 * (0.02 / len(keys)) ** 0.5


def test_a_phase_without_a_share_gets_nothing():
    assert {share_of(str(n), PhaseSplit(sft=1.0, reward=0.0)) for n in range(500)} == {"sft"}
    assert 0 <= min(position(str(n), "phase") for n in range(500)) < 1


def test_the_prompt_of_a_dialogue_is_all_before_its_last_answer():
    turns = (
        Turn("user", "a"),
        Turn("assistant", "b"),
        Turn("user", "c"),
        Turn("assistant", "d"),
        Turn("user", "e"),
    )
    other = (*turns[:3], Turn("assistant", "other"))
    assert prompt_key(Dialogue(turns, HERE)) == prompt_key(Dialogue(other, HERE))
    assert prompt_key(Dialogue(turns, HERE)) != prompt_key(Dialogue(turns[:2], HERE))


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
        assert "is empty" in error.what or "no row is left" in error.what
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
    assert learnt - {"99"} == sft["train"]  # moved and joined by another, every prompt stays where it was


def _rows(read, part):
    try:
        return list(read(part))
    except DataError:
        return []


def _question(tokenizer, ids):
    return re.search(r"question (\d+)", tokenizer.decode(ids))[1]
