"""What is too long is shortened as the recipe says, alike for both answers, and counted."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.encoding.encode import Encoder

HERE = Origin("test", "row 1")
SYSTEM = Turn("system", "Be kind.")


def exchange(number: int, words: int = 5) -> tuple[Turn, Turn]:
    return Turn("user", f"Question {number} " + "red " * words), Turn("assistant", f"Answer {number} is blue.")


def dialogue(*turns: Turn) -> Dialogue:
    return Dialogue(turns, HERE)


LONG = dialogue(SYSTEM, *exchange(1), *exchange(2), *exchange(3))


def encode(tokenizer, example, max_length, policy="drop_oldest_turns"):
    encoder = Encoder(tokenizer, max_length, policy)
    return (encoder.preferences([example]) if isinstance(example, Preference) else encoder.dialogues([example]))[0]


def length(tokenizer, example):
    return len(encode(tokenizer, example, 10_000).example.ids)


def test_the_oldest_exchanges_go_first_and_the_system_turn_stays(tokenizer):
    outcome = encode(tokenizer, LONG, length(tokenizer, LONG) - 1)
    shorter = dialogue(SYSTEM, *exchange(2), *exchange(3))
    assert outcome.cut
    assert outcome.example == encode(tokenizer, shorter, 10_000).example
    outcome = encode(tokenizer, LONG, length(tokenizer, shorter) - 1)
    assert outcome.example == encode(tokenizer, dialogue(SYSTEM, *exchange(3)), 10_000).example


def test_a_dialogue_that_fits_exactly_is_not_touched(tokenizer):
    for policy in ("drop_oldest_turns", "keep_start", "drop"):
        outcome = encode(tokenizer, LONG, length(tokenizer, LONG), policy)
        assert not outcome.cut and len(outcome.example.spans) == 3


def test_then_the_users_text_loses_its_beginning(tokenizer):
    turns = (Turn("user", "one " * 60 + "What is it?"), Turn("assistant", "It is blue."))
    outcome = encode(tokenizer, dialogue(*turns), 40)
    text = tokenizer.decode(outcome.example.ids)
    assert text.startswith(("</s>Human: one one", "</s>Human: ne one"))
    assert text.endswith("What is it?\n\nAssistant: It is blue.</s>")
    assert outcome.cut and 35 <= len(outcome.example.ids) <= 40


def test_a_torn_character_does_not_stay(tokenizer):
    turns = (Turn("user", "首都は東京ですか" * 20), Turn("assistant", "はい"))
    for max_length in range(40, 60):
        assert "\ufffd" not in tokenizer.decode(encode(tokenizer, dialogue(*turns), max_length).example.ids)


def test_an_answer_that_is_too_long_alone_loses_its_end(tokenizer):
    turns = (Turn("user", "one two three " * 20), Turn("assistant", "blue " * 100))
    outcome = encode(tokenizer, dialogue(*turns), 64)
    (begin, end), = outcome.example.spans  # fmt: skip
    assert outcome.cut and end == len(outcome.example.ids) == 64
    said = tokenizer.decode(outcome.example.ids[begin:end])
    assert said.startswith(" blue blue") and not said.endswith("</s>")


def test_a_long_system_turn_goes_when_there_is_no_other_way(tokenizer):
    long_system = Turn("system", "Be kind and good. " * 40)
    outcome = encode(tokenizer, dialogue(long_system, *exchange(1)), 48)
    assert "kind" not in tokenizer.decode(outcome.example.ids) and outcome.example.ids[-1] == 2


def test_both_answers_of_a_pair_get_the_same_prompt_and_room(tokenizer):
    prompt = (SYSTEM, *exchange(1), *exchange(2)[:1])
    pair = Preference.pair(prompt, "blue " * 20, "red " * 10, HERE)
    outcome = encode(tokenizer, pair, 70)
    assert outcome.cut
    assert "Question 1" not in tokenizer.decode(outcome.example.prompt)
    assert len(outcome.example.prompt) + len(outcome.example.answers[0]) <= 70
    assert outcome.example.answers[0][-1] == outcome.example.answers[1][-1] == 2
    both = Preference.pair(prompt, "green " + "blue " * 200, "blue " * 200, HERE)
    outcome = encode(tokenizer, both, 70)
    assert len(outcome.example.answers[0]) == len(outcome.example.answers[1]) == 70 - len(outcome.example.prompt)


@pytest.mark.parametrize("policy", ["drop_oldest_turns", "keep_start"])
def test_pairs_that_cutting_makes_the_same_are_left_out(tokenizer, policy):
    pair = Preference.pair((Turn("user", "What?"),), "blue " * 100 + "yes", "blue " * 100 + "no", HERE)
    outcome = encode(tokenizer, pair, 64, policy)
    assert outcome.example is None and outcome.reason == "chosen and rejected are the same after cutting"


def test_keep_start_keeps_the_start(tokenizer):
    whole = encode(tokenizer, LONG, 10_000).example
    limit = whole.spans[1][0] + 2
    outcome = encode(tokenizer, LONG, limit, "keep_start")
    assert outcome.cut and outcome.example.ids == whole.ids[:limit]
    assert outcome.example.spans == [whole.spans[0], (whole.spans[1][0], limit)]
    outcome = encode(tokenizer, LONG, whole.spans[0][0], "keep_start")
    assert outcome.example is None and outcome.reason.startswith("nothing of the answer is left")
    pair = Preference.pair((Turn("user", "one " * 100),), "yes", "no", HERE)
    assert encode(tokenizer, pair, 64, "keep_start").reason == "the prompt alone fills 64 tokens"


def test_drop_leaves_out_what_is_too_long(tokenizer):
    assert encode(tokenizer, LONG, 50, "drop").reason == "longer than 50 tokens"
    pair = Preference.pair((Turn("user", "one " * 100),), "yes", "no", HERE)
    assert encode(tokenizer, pair, 64, "drop").reason == "longer than 64 tokens"


def test_a_prompt_in_use_is_shortened_as_in_training(tokenizer):
    turns = (SYSTEM, *exchange(1), *exchange(2), *exchange(3)[:1])
    whole = Encoder(tokenizer, 10_000).prompt(turns)
    shorter = Encoder(tokenizer, len(whole) - 1).prompt(turns)
    assert shorter == Encoder(tokenizer, 10_000).prompt((SYSTEM, *exchange(2), *exchange(3)[:1]))
    assert len(Encoder(tokenizer, 64).prompt((Turn("user", "one " * 500),))) <= 64


texts = st.text(alphabet="ab 首\n.", min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(texts, min_size=2, max_size=8).filter(lambda found: len(found) % 2 == 0),
    system=st.none() | texts,
    max_length=st.integers(16, 120),
    policy=st.sampled_from(["drop_oldest_turns", "keep_start", "drop"]),
)
def test_nothing_is_ever_longer_than_max_length(tokenizer, contents, system, max_length, policy):
    head = () if system is None else (Turn("system", system),)
    turns = tuple(Turn(("user", "assistant")[k % 2], content) for k, content in enumerate(contents))
    outcome = encode(tokenizer, dialogue(*head, *turns), max_length, policy)
    if outcome.example is None:
        assert outcome.reason
    else:
        assert 0 < len(outcome.example.ids) <= max_length
        assert all(0 < begin < end <= len(outcome.example.ids) for begin, end in outcome.example.spans)
        if policy == "drop_oldest_turns":  # what is trained on ends with the (beginning of the) last answer
            begin, end = outcome.example.spans[-1]
            said = tokenizer.decode(outcome.example.ids[begin:end]).removesuffix("</s>").rstrip("\ufffd")
            assert turns[-1].content.strip().startswith(said.lstrip())  # an indentation of code is kept
    pair = Preference.pair((*head, *turns[:-1]), contents[-1], contents[-1] + "b", HERE)
    outcome = encode(tokenizer, pair, max_length, policy)
    if outcome.example is not None:
        longest = max(len(outcome.example.answers[0]), len(outcome.example.answers[1]))
        assert len(outcome.example.prompt) + longest <= max_length
        assert outcome.example.answers[0] != outcome.example.answers[1]


class Spy:
    """A tokenizer that counts the characters which it is given."""

    def __init__(self, backend):
        self.backend, self.characters = backend, 0

    def encode_batch_fast(self, texts, **options):
        self.characters += sum(map(len, texts))
        return self.backend.encode_batch_fast(texts, **options)


def test_a_very_long_text_is_tokenised_as_it_is_and_in_its_turn_and_then_remembered(tokenizer):
    encoder = Encoder(tokenizer, 64)
    spy = encoder._segmenter._pieces._encode._backend = Spy(tokenizer.backend_tokenizer)
    text = "one two three " * 20_000
    example = Preference.pair((Turn("user", text),), "red", "blue", Origin("x", "line 1"))
    ((sft, reward),) = encoder.encode([(example, True, True)])
    assert sft.cut and reward.cut and spy.characters < 2.01 * len(text)
    short = Preference.pair((Turn("user", text[-1400:]),), "red", "blue", Origin("x", "line 1"))
    assert [sft, reward] == list(Encoder(tokenizer, 64).encode([(short, True, True)])[0])
