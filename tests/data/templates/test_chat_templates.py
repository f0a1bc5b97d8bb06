"""What a published template would show in use is what is trained: history, generation prompt, then the answer."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from time import process_time

import pytest

from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.encoding.encode import Encoder, end_token
from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.templates.template import set_template
from rlhfcli.progress import Silent
from tests.data.encoding.test_masks import CHATML, LLAMA3, MISTRAL

HERE = Origin("test", "row 1")
FOLDER = Path(__file__).parent / "chat_templates"
CONTROL = ["<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<｜User｜>", "<｜Assistant｜>",
           "<｜end▁of▁sentence｜>", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>", "<|START_RESPONSE|>",
           "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"]  # fmt: skip
ENDS = {  # template: what an answer ends with, EOS, and whether the answers of a dialogue are one example
    "cohere2": ("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", True),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", False),
    "gemma3": ("<end_of_turn>", "</s>", True),
    "gptoss": ("<|return|>", "<|return|>", False),
    "llama3_2": ("<|eot_id|>", "<|eot_id|>", True),
    "mistral": ("</s>", "</s>", True),
    "qwen2_5": ("<|im_end|>", "<|im_end|>", True),
    "qwen3": ("<|im_end|>", "<|im_end|>", False),
    "qwen3_5_think": ("<|im_end|>", "<|im_end|>", False),
    "smollm3": ("<|im_end|>", "<|im_end|>", True),
}
SYSTEM = Turn("system", "Be kind.")
TURNS = (
    Turn("user", "What is the capital of France?"),
    Turn("assistant", "Paris."),
    Turn("user", "And of Japan, a < b?"),
    Turn("assistant", "東京です。\n\n1. Thank you"),
    Turn("user", "Sure?"),
    Turn("assistant", "Yes."),
)


@pytest.fixture
def load(make_tokenizer):
    def load(name: str):
        tokenizer = make_tokenizer("<s>", ENDS[name][1] if ENDS[name][1] not in CONTROL else "</s>")
        tokenizer.add_special_tokens({"additional_special_tokens": CONTROL})
        tokenizer.eos_token = ENDS[name][1]
        tokenizer.add_tokens(["<think>", "</think>"])
        set_template(tokenizer, str(FOLDER / f"{name}.jinja"))
        return tokenizer

    return load


def in_use(tokenizer, turns: tuple[Turn, ...]) -> str:
    """What somebody who serves the model would give it."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for form in ("%d %b %Y", "%d %B %Y", "%Y-%m-%d"):
        text = text.replace(datetime.now().strftime(form), datetime(2024, 7, 26).strftime(form))
    return text


def learnt(tokenizer, turns: tuple[Turn, ...], **more) -> list[tuple[str, str]]:
    """Everything that a dialogue teaches: what is given, and what is said."""
    outcome = Encoder(tokenizer, 4096, **more).dialogues([Dialogue(turns, HERE)])[0]
    assert outcome.example is not None, outcome.reason
    examples = [*outcome.earlier, outcome.example]
    spans = [(example.ids, begin, end) for example in examples for begin, end in example.spans]
    return [(tokenizer.decode(ids[:begin]), tokenizer.decode(ids[begin:end])) for ids, begin, end in spans]


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("head", [(), (SYSTEM,)], ids=["no system turn", "system turn"])
def test_each_answer_is_learnt_once_as_in_use(load, name, head):
    tokenizer, (end, _, together) = load(name), ENDS[name]
    turns = (*head, *TURNS)
    found = learnt(tokenizer, turns)
    asked = [k for k, turn in enumerate(turns) if turn.role == "assistant"]
    assert [given for given, _ in found] == [in_use(tokenizer, turns[:k]) for k in asked]
    for (_, said), k in zip(found, asked, strict=True):
        content = turns[k].content
        assert said.endswith(content + end) and said.count(end) == 1
    outcome = Encoder(tokenizer, 4096).dialogues([Dialogue(turns, HERE)])[0]
    alone = name == "mistral" and head  # its system turn wanders to the last question
    assert len(outcome.earlier) == (0 if together and not alone else 2)
    last = outcome.example
    assert last.ids[: last.spans[-1][0]] == Encoder(tokenizer, 4096).prompt(turns[:-1])
    assert end_token(tokenizer) == tokenizer.convert_tokens_to_ids(ENDS[name][1] if name != "gemma3" else end)
    pair = Preference.pair(turns[:-1], "Yes.", "No.", HERE)
    preference = Encoder(tokenizer, 4096).preferences([pair])[0].example
    assert preference.prompt + preference.answers[0] == last.ids
    assert tokenizer.decode(preference.answers[1]) == found[-1][1].replace("Yes.", "No.")


EMPTY = "<think>\n\n</think>\n\n"
LEADS = {  # what is generated before the words of an answer without a thought
    "qwen3": EMPTY, "qwen3_5_think": EMPTY.removeprefix("<think>\n"), "deepseek_r1_distill": "\n</think>\n\n",
    "gptoss": "<|channel|>final<|message|>", "cohere2": "", "llama3_2": "", "smollm3": "", "gemma3": "", "qwen2_5": "",
    "mistral": " ",
}  # fmt: skip


@pytest.mark.parametrize(("name", "lead"), LEADS.items(), ids=LEADS)
def test_what_stands_before_an_answer_is_generated_too(load, name, lead):
    assert learnt(load(name), TURNS[:2])[0][1] == f"{lead}Paris.{ENDS[name][0]}"


THOUGHT = "I look\nit up."
THOUGHTS = {  # template: what is generated
    "qwen3": f"<think>\n{THOUGHT}\n</think>\n\nParis.<|im_end|>",
    "qwen3_5_think": f"{THOUGHT}\n</think>\n\nParis.<|im_end|>",
    "deepseek_r1_distill": f"{THOUGHT}\n</think>\n\nParis.<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize(("name", "said"), THOUGHTS.items(), ids=THOUGHTS)
@pytest.mark.parametrize("written", ["in the text", "beside it"])
def test_thoughts_are_learnt_where_the_template_has_them(load, name, said, written):
    tokenizer = load(name)
    inside = Turn("assistant", f"<think>\n{THOUGHT}\n</think>\n\nParis.")
    answer = inside if written == "in the text" else Turn("assistant", "Paris.", THOUGHT)
    turns = (TURNS[0], answer, *TURNS[2:4])
    found = learnt(tokenizer, turns)
    assert found[0] == (in_use(tokenizer, turns[:1]), said)
    assert THOUGHT not in found[1][0]  # later turns do not see it
    assert found[1][1].endswith(TURNS[3].content + ENDS[name][0])


def test_gpt_oss_writes_thoughts_into_a_channel_of_their_own(load):
    ((_, said),) = learnt(load("gptoss"), (TURNS[0], Turn("assistant", "Paris.", THOUGHT)))
    assert said == (
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>Paris.<|return|>"
    )


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_5_think", "gptoss", "llama3_2"])
def test_tools_are_written(load, name):
    tokenizer = load(name)
    tools = [{"type": "function", "function": {"name": "look_up", "description": "d", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "c"}}}}}]  # fmt: skip
    dialogue = Dialogue(TURNS[:4], HERE, json.dumps(tools))
    outcome = Encoder(tokenizer, 4096).dialogues([dialogue])[0]
    for example in (*outcome.earlier, outcome.example):
        assert "look_up" in tokenizer.decode(example.ids[: example.spans[0][0]])
    assert sum(len(each.spans) for each in (*outcome.earlier, outcome.example)) == 2


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "gptoss"])
def test_only_what_is_to_be_learnt_is(load, name):
    tokenizer = load(name)
    said = [text for _, text in learnt(tokenizer, TURNS)]
    quiet = tuple(Turn(turn.role, turn.content, train=turn.content != "Paris.") for turn in TURNS)
    assert learnt(tokenizer, quiet) == learnt(tokenizer, TURNS)[1:]
    assert [text for _, text in learnt(tokenizer, TURNS, last_only=True)] == said[2:]
    last_is_quiet = (*TURNS[:5], Turn("assistant", "Yes.", train=False))
    assert [text for _, text in learnt(tokenizer, last_is_quiet)] == said[:2]
    none = tuple(Turn(turn.role, turn.content, train=False) for turn in TURNS)
    outcome = Encoder(tokenizer, 4096).dialogues([Dialogue(none, HERE)])[0]
    assert outcome.reason == "no answer of this dialogue is to be learnt" and not outcome.invalid


@pytest.mark.parametrize("name", ENDS)
def test_one_row_that_a_template_refuses_is_one_row(load, make_recipe, write_lines, tmp_path, name):
    """Two answers in a row, a tool nobody called, several system turns: refused or learnt, the others are used."""
    odd = [(*TURNS[:2], *TURNS[1:2]), (TURNS[0], Turn("tool", "{}"), TURNS[1]), (SYSTEM, TURNS[0], SYSTEM, TURNS[1])]
    rows = [
        {"messages": [{"role": turn.role, "content": turn.content.replace("France", f"F{number}")} for turn in turns]}
        for number, turns in enumerate([*odd, *[TURNS] * 20])
    ]
    tokenizer = load(name)
    prepared = prepare(make_recipe(write_lines(rows), max_length=4096), tokenizer, tmp_path / "data", Silent())
    (source,) = prepared.manifest["sources"]
    assert source["kept"] >= 20 and source["kept"] + sum(source["dropped"].values()) == 23
    assert source["sft"]["divided"] == (0 if ENDS[name][2] else source["sft"]["divided"])
    if not ENDS[name][2]:
        assert source["sft"]["divided"] >= 20
        assert source["sft"]["train"] + source["sft"]["validation"] >= 60


def test_a_date_in_a_template_is_the_same_on_every_day(load, make_recipe, write_lines, tmp_path):
    for name, date in (("llama3_2", "26 Jul 2024"), ("smollm3", "26 July 2024")):
        tokenizer = load(name)
        assert f"Today Date: {date}\n" in tokenizer.decode(Encoder(tokenizer, 4096).prompt(TURNS[:1]))
        rows = [{"prompt": f"q {number}", "response": "a"} for number in range(20)]
        recipe = make_recipe(write_lines(rows), max_length=4096)
        assert prepare(recipe, tokenizer, tmp_path / name, Silent()).manifest["date"]


@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, MISTRAL, "human_assistant"], ids=["ChatML", "Llama", "Mistral", "ours"]
)
def test_the_time_grows_with_the_turns(make_tokenizer, template):
    tokenizer = make_tokenizer("<s>")
    set_template(tokenizer, "human_assistant")
    tokenizer.chat_template = tokenizer.chat_template if template == "human_assistant" else template

    def seconds(exchanges: int) -> float:
        turns = tuple(Turn(role, f"{role} {number}") for number in range(exchanges) for role in ("user", "assistant"))
        encoder = Encoder(tokenizer, 100_000)
        begin = process_time()
        example = encoder.dialogues([Dialogue(turns, HERE)])[0].example  # type: ignore[arg-type]
        assert len(example.spans) == exchanges
        return process_time() - begin

    seconds(2)
    few, many = (min(seconds(exchanges) for _ in range(3)) for exchanges in (160, 1600))  # without pauses
    assert few < 0.5
    assert many < 25 * max(few, 0.02)


def test_a_very_long_dialogue_is_shortened_in_time(make_tokenizer):
    tokenizer = make_tokenizer("<s>")
    tokenizer.chat_template = CHATML
    turns = tuple(Turn(role, "ok") for _ in range(5000) for role in ("user", "assistant"))  # type: ignore[arg-type]
    begin = process_time()
    outcome = Encoder(tokenizer, 256).dialogues([Dialogue(turns, HERE)])[0]
    assert outcome.cut and len(outcome.example.ids) <= 256 and len(outcome.example.spans) > 5
    assert process_time() - begin < 20


@pytest.mark.parametrize("name", ["qwen3", "gptoss"])
def test_long_dialogues_take_linear_time_where_answers_stand_alone(load, name):
    tokenizer = load(name)
    encoder = Encoder(tokenizer, 600)
    took = []
    for exchanges in (160, 640):
        turns = tuple(Turn(role, f"{role} {number}") for number in range(exchanges) for role in ("user", "assistant"))
        begin = process_time()
        outcome = encoder.dialogues([Dialogue(turns, HERE)])[0]  # type: ignore[arg-type]
        took.append(process_time() - begin)
        examples = [*outcome.earlier, outcome.example]
        said = [tokenizer.decode(example.ids[a:b]) for example in examples for a, b in example.spans]
        assert outcome.cut and len(said) == exchanges and all(len(example.ids) <= 600 for example in examples)
        assert all(text.endswith(f"assistant {number}{ENDS[name][0]}") for number, text in enumerate(said))
    assert took[1] < 6 * took[0]


def test_what_has_no_room_is_left_out_before_or_after_with_the_same_result(load, monkeypatch):
    tokenizer = load("qwen3")
    turns = tuple(
        Turn(role, "x " * (number % 7) + f"{role} {number}") for number in range(20) for role in ("user", "assistant")
    )
    first = Encoder(tokenizer, 400).dialogues([Dialogue(turns, HERE)])  # type: ignore[arg-type]
    monkeypatch.setattr("rlhfcli.data.encoding.encode._MANY", 1000)
    assert first == Encoder(tokenizer, 400).dialogues([Dialogue(turns, HERE)])  # type: ignore[arg-type]


def test_answers_that_fit_are_learnt_though_later_ones_do_not(load):
    tokenizer = load("qwen3")
    calls = (Turn(("assistant", "tool")[k % 2], f"{k} done") for k in range(81))  # type: ignore[arg-type]
    turns = (Turn("user", "go"), *calls)
    whole = Encoder(tokenizer, 4096).dialogues([Dialogue(turns, HERE)])[0]
    outcome = Encoder(tokenizer, 300).dialogues([Dialogue(turns, HERE)])[0]
    assert sum(len(each.spans) for each in (*whole.earlier, whole.example)) == 41 and not whole.cut
    learnt = [(each.ids, span) for each in (*outcome.earlier, outcome.example) for span in each.spans]
    assert outcome.cut and 5 < len(learnt) < 41
    assert tokenizer.decode(learnt[3][0][slice(*learnt[3][1])]).startswith("<think>\n\n</think>\n\n6 done")
    dropped = Encoder(tokenizer, 300, "drop").dialogues([Dialogue(turns, HERE)])[0]
    assert dropped.reason == "longer than 300 tokens" and not dropped.invalid


LONG_CALLS = [
    (Turn("user", "go"), *(Turn(("assistant", "tool")[k % 2], f"{k} done") for k in range(81))),  # type: ignore[arg-type]
    (*(Turn(("user", "assistant")[k % 2], f"{k} done") for k in range(81)), Turn("assistant", "end")),
]


@pytest.mark.parametrize("turns", LONG_CALLS, ids=["calls", "odd end"])
def test_long_dialogues_of_other_kinds(make_tokenizer, turns):
    tokenizer = make_tokenizer("<s>")
    tokenizer.chat_template = CHATML
    begin = process_time()
    found = learnt(tokenizer, turns)
    assert process_time() - begin < 2
    assert [said for _, said in found] == [f"{t.content}<|im_end|>" for t in turns if t.role == "assistant"]


CALL = {"type": "function", "function": {"name": "tide", "arguments": {"harbour": "Ulm <|im_end|>"}}}
CALLED = (
    Turn("user", "How high?"),
    Turn("assistant", '{"name": "tide"}', calls=json.dumps({"content": "", "tool_calls": [CALL]})),
    Turn("tool", "2 m"),
    Turn("assistant", "It is 2 m."),
)
CALLS_AS_JSON = {"cohere2", "deepseek_r1_distill", "gemma3", "gptoss", "mistral", "smollm3"}
"""No words for calls in this form, or another end token behind them."""


@pytest.mark.parametrize("name", ENDS)
def test_calls_of_tools_are_written_as_in_use(load, name):
    tokenizer = load(name)
    assert Encoder(tokenizer, 4096).writes_calls == (name not in CALLS_AS_JSON)
    ((given, said),) = learnt(tokenizer, CALLED[:2])
    assert given == in_use(tokenizer, CALLED[:1])
    if name in CALLS_AS_JSON:
        assert CALLED[1].content in said
        return
    *_, (_, answer) = learnt(tokenizer, CALLED)
    assert answer.endswith(f"It is 2 m.{ENDS[name][0]}")
    asked = {"role": "user", "content": "How high?"}
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    whole = tokenizer.apply_chat_template([asked, called], tokenize=False).rstrip("\n")
    assert whole.endswith(said) and "tide" in said and "Ulm <|im_end|>" in said
