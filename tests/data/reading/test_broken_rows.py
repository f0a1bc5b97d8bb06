"""One bad row among good ones: named by file, line and reason, counted, and an error only if the user wants so."""

from __future__ import annotations

import json
import re

import pytest

from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.store.prepared import REJECTED
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from tests.data.conftest import pair

GOOD = [pair(number) for number in range(40)]
USER, ASSISTANT = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
ROWS = {  # one line of a file of pairs → why it is not used
    "not JSON": ('{"prompt": "a" "b"}', "not JSON: Expecting ',' delimiter"),
    "cut off": ('{"prompt": "a', "not JSON: Invalid control character"),
    "Latin-1": (b'{"prompt": "\xe9"}', "not UTF-8: byte 13 is 0xe9"),
    "not an object": ("[1, 2]", "the row is not an object with columns"),
    "null": ("null", "the row is not an object with columns"),
    "a column is missing": ({"prompt": "a", "chosen": "b"}, "the row lacks rejected"),
    "null answer": (pair(1, chosen=None), "chosen is null, not text"),
    "a number": (pair(1, rejected=3), "rejected is a number, not text"),
    "empty prompt": (pair(1, prompt=" "), "prompt is empty"),
    "empty answer": (pair(1, rejected=""), "rejected is empty"),
    "same answers": (pair(1, rejected="answer 1"), "chosen and rejected are the same text"),
    "half a character": (r'{"prompt": "\ud83d", "chosen": "a", "rejected": "b"}', "holds half a character"),
    "half a character in the kind": (
        r'{"prompt": "a", "chosen": "a", "rejected": "b", "kind": "x\ud83d"}',
        "kind holds half a character",
    ),
    "half a character in a column's name": (
        r'{"prompt": "a", "chosen": "a", "rejected": "b", "x\ud83d": 1}',
        "the name of a column holds half a character",
    ),
    "digits": ('{"prompt": "a", "chosen": "a", "rejected": "b", "x": ' + "9" * 5000 + "}", "too many digits"),
    "depth": ('{"prompt": "a", "chosen": "a", "rejected": "b", "x": ' + "[" * 100_000, "nested too deeply"),
    "a key twice": ('{"prompt": "a", "chosen": "a", "rejected": "b", "chosen": "c"}', "the key chosen stands twice"),
    "unknown role": (pair(1, prompt=[{"role": "narrator", "content": "x"}]), "has the unknown role 'narrator'"),
    "no role": (pair(1, prompt=[{"content": "x"}]), "does not say who speaks"),
    "no turns": (pair(1, prompt=[]), "has no turns"),
    "turn without text": (pair(1, prompt=[{"role": "user"}]), "is null, not text"),
    "prompt ends with the assistant": (pair(1, prompt=[USER, ASSISTANT]), "ends with the assistant's turn"),
    "prompt without user": (pair(1, prompt=[{"role": "system", "content": "x"}]), "the prompt has no user turn"),
    "margin": (pair(1, margin="much"), "margin is not a number"),
    "cut to the same": (
        pair(1, chosen="red " * 300 + "a", rejected="red " * 300 + "b"),
        "chosen and rejected are the same after cutting",
    ),
    "exact duplicate": (GOOD[0], "duplicate"),
    "near duplicate": (pair(0, prompt="QUESTION  0?"), "duplicate but for upper case and white space"),
}


def as_line(row):
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()


@pytest.fixture
def file_with(tmp_path):
    def write(row):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"\n".join(map(as_line, [*GOOD, row, pair(99)])) + b"\n")
        return path

    return write


@pytest.mark.parametrize(("row", "reason"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_named_and_counted(tokenizer, make_recipe, file_with, tmp_path, row, reason):
    path = file_with(row)
    prepared = prepare(make_recipe(path, max_length=64), tokenizer, tmp_path / "data", Silent())
    (source,) = prepared.manifest["sources"]
    assert (source["read"], source["reward"]["train"] + source["reward"]["validation"]) == (42, 41)
    (rejected,) = [json.loads(line) for line in (tmp_path / "data" / REJECTED).read_text().splitlines()]
    assert rejected["file"] == str(path) and rejected["row"] == "line 41" and rejected["start"]
    assert reason in rejected["reason"]
    (counted,) = (source["dropped"] or source["reward"]["dropped"]).items()
    assert counted[1] == 1 and counted[0] == re.sub(r"turn \d", "a turn", rejected["reason"])
    if "duplicate" in reason:
        prepared.refuse_invalid()  # not the row's fault
        return
    with pytest.raises(DataError) as caught:
        prepared.refuse_invalid()
    assert f"1 row cannot be used:\n{path}: line 41: {rejected['reason']}" in str(caught.value)
    assert "take them out" in caught.value.hint


def test_strict_names_the_first_rows_and_counts_the_others(tokenizer, make_recipe, write_lines, tmp_path):
    path = write_lines([*GOOD, *({"prompt": f"{k}", "chosen": "", "rejected": "a"} for k in range(30))])
    prepared = prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    with pytest.raises(DataError) as caught:
        prepared.refuse_invalid()
    assert "30 rows cannot be used" in caught.value.what and "... and 10 more" in caught.value.what
    assert "line 41: chosen is empty" in caught.value.what and "line 61" not in caught.value.what


def test_rows_that_the_recipe_does_not_want_are_not_at_fault(tokenizer, make_recipe, write_lines, tmp_path):
    path = write_lines([*GOOD, pair(50, prompt="blue " * 100)])
    recipe = make_recipe(path, max_length=64, truncation="drop")
    prepared = prepare(recipe, tokenizer, tmp_path / "data", Silent())
    (source,) = prepared.manifest["sources"]
    assert source["dropped"] == {"longer than 64 tokens": 1}
    assert source["sft"]["dropped"] == source["reward"]["dropped"] == {}  # a row that nobody uses is counted once
    prepared.refuse_invalid()


def test_a_bad_row_in_the_middle_of_a_csv_file(tokenizer, make_recipe, tmp_path):
    path = tmp_path / "rows.csv"
    lines = ["prompt,chosen,rejected", *(f"question {k}?,yes {k},no" for k in range(40)), "a,b", 'a,"b\nc",d,e']
    path.write_text("\n".join(lines) + "\n")
    prepared = prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
    with pytest.raises(DataError) as caught:
        prepared.refuse_invalid()
    assert "row 41: the row has fewer fields than the header's 3 (ends on line 42)" in caught.value.what
    assert "row 42: the row has more fields than the header's 3 (ends on line 44)" in caught.value.what
