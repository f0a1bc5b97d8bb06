"""The same rows give the same store, whatever kind of file they stand in."""

from __future__ import annotations

import gzip
import json

import datasets
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.progress import Silent

COUNT = 14


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(**arguments):
    return [{"type": "function", "function": {"name": "f", "arguments": arguments}}]


def parts(text):
    return [{"type": "text", "text": text}]


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
ROWS = {  # a shape → the row of a number; keys and columns may be there in some rows only
    "prompt_response": lambda k: {"prompt": f"q {k}", "response": f"a {k}\n  東京"},
    "question_answer": lambda k: {
        "question": f"q {k}",
        "answer": f"a {k}",
        "id": k,
        "score": k / 2,
        "good": k % 2 == 0,
    },
    "messages": lambda k: {"messages": [user(f"q {k}"), answer(f"a {k}"), user("and?"), answer(f"b {k}")]},
    "messages of other keys": lambda k: {
        "messages": [
            {**user(f"q {k}"), **({"name": "x"} if k % 2 else {})},
            answer("a", weight=k % 2),
            user("so?"),
            answer(f"b {k}"),
        ]
    },
    "parts": lambda k: {"messages": [user(parts(f"q {k}")), answer(parts(f"a {k}") + parts("!"))]},
    "parts in some": lambda k: {"messages": [user(parts(f"q {k}") if k % 2 else f"q {k}"), answer(f"a {k}")]},
    "parts of pictures": lambda k: {
        "messages": [
            user([{"type": "image"}, *parts(f"q {k}")] if k == 3 else parts(f"q {k}")),
            answer(parts(f"a {k}")),
        ]
    },
    "calls": lambda k: {
        "messages": [user(f"q {k}"), answer("", tool_calls=call(city=f"c {k}")), user("so?"), answer("x")]
    },
    "calls of other kinds": lambda k: {
        "messages": [
            user(f"q {k}"),
            answer("", tool_calls=call(**({"a": k} if k % 2 else {"a": [str(k)], "b": {}}))),
            answer("x"),
        ]
    },
    "tools": lambda k: {"messages": [user(f"q {k}"), answer(f"a {k}")], **({"tools": [TOOL]} if k % 2 else {})},
    "reasoning": lambda k: {
        "messages": [user(f"q {k}"), answer(f"a {k}", **({"reasoning_content": "r"} if k % 2 else {}))]
    },
    "sharegpt": lambda k: {"conversations": [{"from": "human", "value": f"q {k}"}, {"from": "gpt", "value": f"a {k}"}]},
    "pairs": lambda k: {"prompt": f"q {k}", "chosen": f"a {k}", "rejected": "b", "margin": k / 4, "kind": f"k{k % 2}"},
    "pairs, some with a margin": lambda k: {
        "prompt": f"q {k}",
        "chosen": f"a {k}",
        "rejected": "b",
        **({"margin": 2} if k % 2 else {}),
    },
    "pairs of messages": lambda k: {
        "prompt": [user(f"q {k}")],
        "chosen": [answer(f"a {k}")],
        "rejected": [answer("b")],
    },
    "whole dialogues": lambda k: {
        "chosen": [user(f"q {k}"), answer(f"a {k}")],
        "rejected": [user(f"q {k}"), answer("b")],
    },
    "ranking": lambda k: {"prompt": f"q {k}", "answers": [f"a {k}", "b", "c"], "scores": [3, 2.5, k % 3]},
    "alpaca": lambda k: {"instruction": f"do {k}", "input": "" if k % 2 else f"i {k}", "output": f"a {k}"},
    "webgpt": lambda k: {
        "question": {"full_text": f"q {k}", "id": None},
        "answer_0": f"a {k}",
        "answer_1": "b",
        "score_0": 0.5,
        "score_1": -0.5,
    },
    "two shapes": lambda k: (
        {"messages": [user(f"q {k}"), answer("a")]} if k % 2 else {"prompt": f"q {k}", "response": "a"}
    ),
    "rows that cannot be used": lambda k: {
        "prompt": None if k == 2 else f"q {k}",
        "response": "" if k == 4 else f"a {k}",
    },
}


def as_datasets(rows, folder):
    """What ``load_dataset`` makes of the rows, which chooses the types itself."""
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return datasets.load_dataset(
        "json", data_files=str(folder / "in.jsonl"), split="train", cache_dir=str(folder / "cache")
    )


def table(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def write_stream(rows, path):
    found = table(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema) as writer:
        writer.write_table(found)


KINDS = {  # how rows are written: a name of the file or folder, and what writes it
    "list": ("x.json", lambda rows, path: path.write_text(json.dumps(rows, indent=1))),
    "packed": ("x.jsonl.gz", lambda rows, path: path.write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))),
    "parquet": ("x.parquet", lambda rows, path: parquet.write_table(table(rows), path)),
    "arrow": ("x.arrow", write_stream),
    "pandas, parquet": ("x.parquet", lambda rows, path: pandas.DataFrame(rows).to_parquet(path)),
    "pandas, json": ("x.json", lambda rows, path: pandas.DataFrame(rows).to_json(path)),
    "pandas, lines": ("x.jsonl", lambda rows, path: pandas.DataFrame(rows).to_json(path, orient="records", lines=True)),
    "save_to_disk": ("x", lambda rows, path: as_datasets(rows, path.parent).save_to_disk(path)),
    "to_parquet": ("x.parquet", lambda rows, path: as_datasets(rows, path.parent).to_parquet(path)),
}  # fmt: skip
# What Arrow itself cannot hold: a text in one row and a list in the next.
NOT_IN_ARROW = {"parts in some", "calls of other kinds"}


def stored(recipe, tokenizer, folder):
    prepared = prepare(recipe, tokenizer, folder, Silent())
    (source,) = prepared.manifest["sources"]
    phases = {"sft": prepared.dialogues, "reward": prepared.pairs}
    found = {
        f"{phase}_{part}": [str(example) for example in read(part)]
        for phase, read in phases.items()
        for part in ("train", "validation")
        if source[phase]["train"]
    }
    return found, {name: value for name, value in source.items() if name not in ("path", "shapes", "columns")}


@pytest.mark.parametrize("shape", ROWS)
def test_the_same_rows_give_the_same_store(tokenizer, make_recipe, write_lines, tmp_path, shape):
    rows = [ROWS[shape](number) for number in range(COUNT)]
    expected = stored(make_recipe(write_lines(rows)), tokenizer, tmp_path / "data")
    assert expected[1]["kept"] >= COUNT - 2
    for kind, (name, write) in KINDS.items():
        if shape in NOT_IN_ARROW and kind in ("parquet", "arrow", "pandas, parquet"):
            continue
        folder = tmp_path / kind
        folder.mkdir()
        write(rows, folder / name)
        assert stored(make_recipe(folder / name), tokenizer, folder / "data") == expected, kind
