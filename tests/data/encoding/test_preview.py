"""Tokens become text again: nothing is lost, nothing is torn."""

from __future__ import annotations

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from rlhfcli.data.encoding.preview import Piece, Previewer, PreviewPreference, choose_evenly
from rlhfcli.data.templates.template import set_template
from tests.data.encoding.test_masks import sentencepiece

HERE = Origin("rows.jsonl", 1)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turns(*contents: str, system: str = "") -> tuple[Turn, ...]:
    roles = ("user", "assistant")
    said = tuple(Turn(roles[k % 2], content) for k, content in enumerate(contents))  # type: ignore[arg-type]
    return ((Turn("system", system), *said)) if system else said


def dialogue(tokenizer, *contents: str, system: str = "") -> EncodedDialogue:
    found = Encoder(tokenizer, 512).dialogues([Dialogue(turns(*contents, system=system), HERE)])[0].example
    assert found is not None
    return found


def preference(tokenizer, prompt: tuple[Turn, ...], *answers: str) -> EncodedPreference:
    order = tuple((0, k) for k in range(1, len(answers)))
    found = Encoder(tokenizer, 512).preferences([Preference(prompt, answers, order, HERE)])[0].example
    assert found is not None
    return found


def test_what_is_trained_and_what_the_template_wrote(tokenizer) -> None:
    shown = Previewer(tokenizer).dialogue(dialogue(tokenizer, "Is it red?", "Blue.", "Why?", "It is."))
    trained = [piece.text for piece in shown.pieces if piece.trained]
    assert [text.strip() for text in trained] == ["Blue.</s>", "It is.</s>"]
    said = [piece.text for piece in shown.pieces if not piece.trained and not piece.template]
    assert [text.strip() for text in said] == ["Is it red?", "Why?"]
    assert all("Human" in text or "Assistant" in text for text in (p.text for p in shown.pieces if p.template))


def test_the_pieces_are_the_text(tokenizer) -> None:
    example = dialogue(tokenizer, "東京 ... ?\n\n\n", "  北京是中国的首都。🙂", "x", "y\n")
    shown = Previewer(tokenizer).dialogue(example)
    assert "".join(piece.text for piece in shown.pieces) == tokenizer.decode(example.ids)


def test_loss_on_all_trains_everything(tokenizer) -> None:
    shown = Previewer(tokenizer, loss_on="all").dialogue(dialogue(tokenizer, "Is it red?", "Blue."))
    assert all(piece.trained for piece in shown.pieces)
    assert any(piece.template for piece in shown.pieces)


def test_a_model_template_with_a_system_turn(make_tokenizer) -> None:
    tokenizer = make_tokenizer(eos="<|im_end|>")
    tokenizer.chat_template = CHATML
    shown = Previewer(tokenizer).dialogue(dialogue(tokenizer, "red?", "Blue.", system="Be brief."))
    assert shown.pieces == (
        Piece("<|im_start|>system\n", template=True),
        Piece("Be brief."),
        Piece("<|im_end|>\n<|im_start|>user\n", template=True),
        Piece("red?"),
        Piece("<|im_end|>\n<|im_start|>assistant\n", template=True),
        Piece("Blue.<|im_end|>", trained=True),
    )


def test_a_prompt_of_several_turns(make_tokenizer) -> None:
    tokenizer = make_tokenizer(eos="<|im_end|>")
    tokenizer.chat_template = CHATML
    example = preference(tokenizer, turns("one?", "two", "three?", "four", "five?"), "six", "seven")
    said = [piece.text for piece in Previewer(tokenizer).preference(example).prompt if not piece.template]
    assert said == ["one?", "two", "three?", "four", "five?"]


def test_a_template_that_takes_only_one_exchange(make_tokenizer) -> None:
    tokenizer = make_tokenizer(eos="</s>")
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}"
        "{% for m in messages %}[INST]{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[INST]{% endif %}"
    )
    shown = Previewer(tokenizer).dialogue(dialogue(tokenizer, "red?", "Blue."))
    assert [piece.text for piece in shown.pieces if piece.trained] == ["Blue.</s>"]
    assert [piece.text for piece in shown.pieces if not piece.template and not piece.trained] == ["red?"]


def test_tokens_that_no_template_made_stay_whole(tokenizer) -> None:
    ids = tokenizer("red green blue", add_special_tokens=False)["input_ids"]
    shown = Previewer(tokenizer).dialogue(EncodedDialogue(ids, [(len(ids) - 1, len(ids))]))
    assert "".join(piece.text for piece in shown.pieces) == "red green blue"
    assert [piece.trained for piece in shown.pieces] == [False, True]


def test_where_two_answers_part(tokenizer) -> None:
    example = preference(tokenizer, turns("What?"), "The capital of France is Paris.", "The capital of Mars is red.")
    shown = Previewer(tokenizer).preference(example)
    assert shown.shared.strip().startswith("The capital of")
    assert [shown.shared + rest for rest in shown.answers] == [tokenizer.decode(answer) for answer in example.answers]
    assert all(rest.endswith("</s>") for rest in shown.answers)
    assert shown.answers[0][0] != shown.answers[1][0] or "The capital of" in shown.shared


@pytest.mark.parametrize("answers", [("日", "旦"), ("紀", "納", "紙"), ("🙂", "🙃"), ("x🙂y", "x🙂z")])
def test_a_character_is_never_torn_at_the_fork(tokenizer, answers) -> None:
    example = preference(tokenizer, turns("東?"), *answers)
    begun = 0
    while len({answer[begun] for answer in example.answers}) == 1:
        begun += 1
    shown = Previewer(tokenizer).preference(example)
    assert begun > 1, "these characters share their first bytes, or the test shows nothing"
    assert "\ufffd" not in shown.shared + "".join(shown.answers)
    assert [(shown.shared + rest).strip() for rest in shown.answers] == [f"{answer}</s>" for answer in answers]


def test_a_ranking_keeps_all_answers_and_comparisons(tokenizer) -> None:
    order = [(0, 1), (0, 2), (1, 2)]
    ids = tokenizer(["one", "two", "six"], add_special_tokens=False)["input_ids"]
    shown = Previewer(tokenizer).preference(EncodedPreference([0, 5, 6], ids, order, [0.5, 2.0, 0.0], "rude"))
    assert isinstance(shown, PreviewPreference)
    assert (shown.answers, shown.shared) == (("one", "two", "six"), "")
    assert (shown.order, shown.margins, shown.kind) == (tuple(order), (0.5, 2.0, 0.0), "rude")


@pytest.mark.parametrize(
    ("total", "count", "chosen"), [(10, 3, [0, 3, 6]), (2, 5, [0, 1]), (0, 3, []), (4, 4, [0, 1, 2, 3])]
)
def test_examples_from_all_over_a_part(total: int, count: int, chosen: list[int]) -> None:
    assert choose_evenly(range(100, 100 + total), count) == [(k, 100 + k) for k in chosen]


def test_the_human_assistant_template_needs_no_bos(make_tokenizer) -> None:
    tokenizer = make_tokenizer(bos=None)
    set_template(tokenizer, "human_assistant")
    shown = Previewer(tokenizer).dialogue(dialogue(tokenizer, "red?", "Blue."))
    assert [piece.text.strip() for piece in shown.pieces if piece.trained] == ["Blue.</s>"]


@pytest.mark.parametrize("kind", ["first", "always", "legacy", "none"])
def test_sentencepiece_keeps_its_spaces_and_characters(kind: str) -> None:
    tokenizer = sentencepiece(kind)
    set_template(tokenizer, "human_assistant")
    answers = ("the 鷲鷹 日", "the 鷲鷹 旦", "the 鷲鷹旧")  # none of them in its vocabulary
    example = preference(tokenizer, turns("Which bird?"), *answers)
    shown = Previewer(tokenizer).preference(example)
    assert [(shown.shared + rest).strip() for rest in shown.answers] == [f"{answer}</s>" for answer in answers]
    assert shown.shared.strip() == "the 鷲鷹"
    trained = [p.text for p in Previewer(tokenizer).dialogue(dialogue(tokenizer, "a b", "c d")).pieces if p.trained]
    assert [text.strip() for text in trained] == ["c d</s>"]


def test_a_run_of_byte_tokens_is_shared_up_to_the_torn_character() -> None:
    tokenizer = sentencepiece("none")
    set_template(tokenizer, "human_assistant")
    shown = Previewer(tokenizer).preference(preference(tokenizer, turns("Which?"), "鷲鷹鷺", "鷲鷹鷽"))
    assert shown.shared.strip() == "鷲鷹"
    assert shown.answers == ("鷺</s>", "鷽</s>")
