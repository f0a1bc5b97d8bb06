"""The files of people who do this job: each row is read as ``apply_chat_template`` would write it, or refused."""

from __future__ import annotations

import json
from copy import copy
from functools import partial

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rlhfcli.data.dialogues.column_use import ColumnUse, WatchedRow
from rlhfcli.data.dialogues.dialogue import Dialogue, Origin, Preference
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.shapes.formats import SHAPES, convert, detect_shape
from rlhfcli.errors import DataError
from tests.data.public_rows import CALLS, READ, REFUSED, A, B, Pair, Talk, said

CHATML = (
    "{% if tools %}{{ '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WITH_CALLS = CHATML.replace(
    "{{ m.content + '<|im_end|>\\n' }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}",
)
TALKS = {name: case for name, case in READ.items() if isinstance(case, Talk)}
PAIRS = {name: case for name, case in READ.items() if isinstance(case, Pair)}


def understood(row):
    """What a row becomes, and which columns nobody reads."""
    use, watched = ColumnUse(), WatchedRow(row)
    example = convert(watched, detect_shape([row], SHAPES, "rows.jsonl"), Origin("rows.jsonl", "line 1"))
    use.add(watched, example)
    return example, tuple(use.shares())


@pytest.mark.parametrize("case", TALKS.values(), ids=TALKS.keys())
def test_dialogues_have_the_right_turns(case):
    found, unread = understood(case.row)
    assert isinstance(found, Dialogue) and unread == case.unread
    assert [(turn.role, turn.content, turn.reasoning) for turn in found.turns] == [
        (turn["role"], turn["content"], turn.get("reasoning_content", "")) for turn in case.turns
    ]
    learnt = tuple(turn.train for turn in found.turns if turn.role == "assistant")
    assert learnt == (case.learnt or (True,) * len(learnt))
    assert (json.loads(found.tools) if found.tools else None) == case.tools


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS.keys())
def test_preferences_have_the_right_prompt(case):
    found, unread = understood(case.row)
    assert isinstance(found, Preference) and unread == case.unread
    assert [(turn.role, turn.content) for turn in found.prompt] == [(t["role"], t["content"]) for t in case.turns]
    assert (found.answers, found.order) == ((A, B), ((0, 1),))
    assert found.margins == ((case.margin,) if case.margin else ())


@pytest.mark.parametrize(("row", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_says_why(row, reason):
    with pytest.raises((RowProblem, DataError)) as caught:
        understood(row)
    assert reason in str(caught.value)


@pytest.fixture(scope="module")
def chatml(core_json):
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(core_json), eos_token="<|im_end|>", pad_token="<pad>", chat_template=CHATML
    )


@pytest.mark.parametrize("case", TALKS.values(), ids=TALKS.keys())
def test_what_is_trained_is_what_the_template_writes(chatml, case):
    (outcome,) = Encoder(chatml, 1024).dialogues([understood(case.row)[0]])
    text = chatml.decode(outcome.example.ids)
    learnt = [chatml.decode(outcome.example.ids[begin:end]) for begin, end in outcome.example.spans]
    if case.turns == [said("assistant", A)]:  # plain text has no turns
        assert (text, learnt) == (f"{A}<|im_end|>", [f"{A}<|im_end|>"])
        return
    write = partial(chatml.apply_chat_template, tools=case.tools, tokenize=False)
    assert f"{text}\n" == write(case.turns)
    answers = [k for k, turn in enumerate(case.turns) if turn["role"] == "assistant"]
    wanted = [k for k, is_learnt in zip(answers, case.learnt or [True] * len(answers), strict=True) if is_learnt]
    whole = [(write(case.turns[:k], add_generation_prompt=True), write(case.turns[: k + 1])) for k in wanted]
    assert learnt == [after.removeprefix(before).removesuffix("\n") for before, after in whole]


@pytest.mark.parametrize(("name", "turns"), CALLS.items())
def test_calls_of_tools_are_written_in_the_words_of_the_template(chatml, name, turns):
    case, tokenizer = READ[name], copy(chatml)
    tokenizer.chat_template = WITH_CALLS
    encoder = Encoder(tokenizer, 1024)
    (outcome,) = encoder.dialogues([understood(case.row)[0]])
    write = partial(tokenizer.apply_chat_template, tools=case.tools, tokenize=False)
    text = tokenizer.decode(outcome.example.ids)
    assert f"{text}\n" == write(turns) and "<tool_call>" in text
    begin, end = outcome.example.spans[0]
    assert tokenizer.decode(outcome.example.ids[begin:end]).startswith("<tool_call>")
    assert encoder.writes_calls and not Encoder(chatml, 1024).writes_calls


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS.keys())
def test_what_is_compared_is_what_the_template_writes(chatml, case):
    (outcome,) = Encoder(chatml, 1024).preferences([understood(case.row)[0]])
    write = partial(chatml.apply_chat_template, tokenize=False)
    assert chatml.decode(outcome.example.prompt) == write(case.turns, add_generation_prompt=True)
    for ids, answer in zip(outcome.example.sequences, (A, B), strict=True):
        assert f"{chatml.decode(ids)}\n" == write([*case.turns, said("assistant", answer)])
