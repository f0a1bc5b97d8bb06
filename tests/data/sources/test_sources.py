"""Rows know where they stand, and what is wrong with a file is said with its place and what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from rlhfcli.data.dialogues.column_use import ColumnUse
from rlhfcli.data.sources.evaluation_rows import read_pairs, read_prompts
from rlhfcli.data.sources.sources import local_streams, open_source
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import SourceSection

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c\nd", "response": "東京"}]


def rows_of(path, **more):
    streams = open_source(SourceSection(path=str(path), **more), seed=1)
    return [(row, origin.row) for stream in streams for row, origin in stream.rows]


def write(path: Path, kind: str) -> Path:
    path = path / f"rows{kind}"
    text = "\n" + "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind.startswith(".json") and "jsonl" not in kind:
        text = json.dumps(ROWS)
    if kind.startswith(".csv"):
        text = 'prompt,response\r\na,b\r\n"c\nd",東京\r\n'
    table = pa.Table.from_pylist(ROWS)
    if kind == ".parquet":
        parquet.write_table(table, path)
    elif kind in (".arrow", ".stream.arrow", ".arrow.gz"):
        sink = pa.BufferOutputStream()
        with (pa.ipc.new_stream if "stream" in kind else pa.ipc.new_file)(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    elif kind.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_bytes(text.encode())
    return path


KINDS = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".stream.arrow")


@pytest.mark.parametrize("kind", [*KINDS, ".jsonl.gz", ".json.gz", ".csv.gz", ".arrow.gz"])
def test_all_kinds_of_files_give_the_same_rows(tmp_path, kind):
    found = rows_of(write(tmp_path, kind))
    assert [row for row, _ in found] == ROWS
    assert [at for _, at in found] == (["line 2", "line 3"] if "jsonl" in kind else ["row 1", "row 2"])


def test_json_lines_under_the_name_json_are_read(tmp_path):
    path = write(tmp_path, ".jsonl").rename(tmp_path / "rows.json")
    assert [at for _, at in rows_of(path)] == ["line 2", "line 3"]


def test_folders_give_their_files_and_the_split_that_is_asked_for(tmp_path):
    for name in ("train-00000.jsonl", "train-00001.jsonl", "test.jsonl", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({"name": name}))
    assert [row["name"] for row, _ in rows_of(tmp_path)] == ["train-00000.jsonl", "train-00001.jsonl"]
    assert [row["name"] for row, _ in rows_of(tmp_path, split="test")] == ["test.jsonl"]
    with pytest.raises(DataError, match="there is no split 'dev' here"):
        rows_of(tmp_path, split="dev")


def test_folders_of_save_to_disk_are_read(tmp_path):
    splits = {name: Dataset.from_list([{"prompt": name, "response": "b"}] * 3) for name in ("train", "test")}
    DatasetDict(splits).save_to_disk(tmp_path / "all")
    splits["test"].save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-0123.arrow").write_bytes(b"left over")
    assert [row["prompt"] for row, _ in rows_of(tmp_path / "all")] == ["train"] * 3
    assert [row["prompt"] for row, _ in rows_of(tmp_path / "all", split="test")] == ["test"] * 3
    assert [at for _, at in rows_of(tmp_path / "one")] == ["row 1", "row 2", "row 3"]


def test_patterns_stand_for_several_files(tmp_path):
    for name in ("a/1.jsonl", "a/2.jsonl.gz", "b/3.jsonl", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"name": name}).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert [row["name"] for row, _ in rows_of(tmp_path / "*" / "*")] == ["a/1.jsonl", "a/2.jsonl.gz", "b/3.jsonl"]
    assert [row["name"] for row, _ in rows_of(tmp_path / "**" / "?.jsonl")] == ["a/1.jsonl", "b/3.jsonl"]
    assert len(rows_of(tmp_path / "a" / "*", limit=1)) == 1
    with pytest.raises(DataError, match=r"no data file matches the pattern \(of 1 that match"):
        rows_of(tmp_path / "b" / "*.txt")


@pytest.mark.parametrize("kind", [*KINDS, ".jsonl.gz", ".arrow.gz"])
def test_the_meter_says_how_far_the_reading_is(tmp_path, kind):
    rows = [{"prompt": f"{number} " * 50, "response": "b"} for number in range(4000)]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / f"rows{kind}"
    if "arrow" in kind:
        sink = pa.BufferOutputStream()
        with (pa.ipc.new_stream if "stream" in kind else pa.ipc.new_file)(sink, table.schema) as writer:
            writer.write_table(table, 500)
        content = sink.getvalue().to_pybytes()
    elif kind == ".parquet":
        parquet.write_table(table, path)
        content = path.read_bytes()
    elif kind == ".csv":
        content = ("prompt,response\n" + "".join(f"{row['prompt']},b\n" for row in rows)).encode()
    else:
        content = json.dumps(rows).encode() if kind == ".json" else "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    (stream,) = open_source(SourceSection(path=str(path)), seed=1)
    seen = [stream.meter.done for _ in stream.rows]
    assert seen == sorted(seen) and seen[-1] <= stream.meter.size == stream.meter.done
    if not kind.endswith(".gz"):  # a compressed file as small as this one is read in a few gulps
        assert 0.3 < seen[len(seen) // 2] / stream.meter.size < 0.7


def test_the_built_in_data_are_generated_by_limit_and_seed():
    found = rows_of("builtin:tiny/pairs", limit=5)
    assert len(found) == 5 and set(found[0][0]) >= {"prompt", "chosen", "rejected"}
    assert found == rows_of("builtin:tiny/pairs", limit=5)
    assert "messages" in rows_of("builtin:tiny/dialogues", limit=1)[0][0]


GOOD = '{"prompt": "a", "response": "b"}\n'


def arrow_with_wrong_offsets():
    table = pa.table({"prompt": ["a" * 77, "b" * 78]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    right, wrong = (np.array(ends, dtype=np.int32).tobytes() for ends in ([0, 77, 155], [0, 10**9, 155]))
    return sink.getvalue().to_pybytes().replace(right, wrong)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1234\n"
BROKEN = {
    "empty file": ("x.jsonl", b"", "x.jsonl: the file has no rows"),
    "blank lines": ("x.jsonl", b"\n \n", "x.jsonl: the file has no rows"),
    "empty list": ("x.json", b"[]", "x.json: the file has no rows"),
    "header only": ("x.csv", b"prompt,response\n", "x.csv: the file has no rows"),
    "malformed first line": ("x.jsonl", b'{"prompt": "a" "b"}\n', "x.jsonl:1:16: not JSON: Expecting ',' delimiter"),
    "Latin-1 first line": ("x.jsonl", b'{"prompt": "\xe9"}', "x.jsonl:1: not UTF-8: byte 13 is 0xe9"),
    "half a document over many lines": ("x.jsonl", b"[\n{},\n{", "x.jsonl:3:2: not JSON"),
    "malformed JSON": ("x.json", b'[{"a": 1},\n {"a": }]', "x.json:2:8: not JSON: Expecting value"),
    "an object without rows": ("x.json", b'{"data": []}', "x.json: the file has no rows"),
    "a number": ("x.json", b"3", "not a list of rows but 3"),
    "Latin-1 JSON": ("x.json", b'["\xe9"]', "x.json: not UTF-8: byte 3 is 0xe9"),
    "Latin-1 CSV": ("x.csv", b"a,b\n1,\xe9\n", "x.csv: row 1 (ends on line 2): not UTF-8: byte 3 is 0xe9"),
    "too many fields": (
        "x.csv",
        b"a,b\n1,2,3\n",
        "x.csv: row 1 (ends on line 2): the row has more fields",
    ),
    "too few fields": ("x.csv", b"a,b\n1\n", "the row has fewer fields than the header's 2"),
    "open quote": ("x.csv", b'a,b\n1,"2\n', "x.csv: row 1 (ends on line 2): not CSV: unexpected end of data"),
    "no gzip": ("x.jsonl.gz", b"hello", "x.jsonl.gz: the .gz file is damaged"),
    "cut gzip": ("x.jsonl.gz", gzip.compress(GOOD.encode() * 9)[:-12], "x.jsonl.gz: the .gz file is damaged"),
    "no arrow": ("x.arrow", b"hello, this is no table", "x.arrow: not an Arrow file"),
    "Arrow with wrong offsets": ("x.arrow", arrow_with_wrong_offsets(), "x.arrow: not an Arrow file: "),
    "no parquet": ("x.parquet", b"hello, this is no table", "x.parquet: not a Parquet file"),
    "another kind": ("x.doc", b"hello", "x.doc: not a kind of data file"),
    "a text": ("x.txt", b"hello", "x.txt: a text file has no rows"),
    "a text that may be rows": ("rows.json.txt", GOOD.encode(), "rename it to .jsonl"),
    "Git LFS": ("x.jsonl", LFS, "x.jsonl: this is a Git LFS pointer, not the file itself"),
    "Git LFS for CSV": ("x.csv", LFS, "git lfs pull"),
    "Git LFS for Parquet": ("x.parquet", LFS, "this is a Git LFS pointer"),
    "Git LFS for Arrow": ("x.arrow", LFS, "this is a Git LFS pointer"),
    "Git LFS for gzip": ("x.jsonl.gz", LFS, "this is a Git LFS pointer"),
    "a web page": ("x.json", b"\n<!DOCTYPE html>\n<html>401</html>", "x.json: this is a web page, not the file itself"),
    "a zip archive": ("x.csv", b"PK\x03\x04\x14", "x.csv: this is a zip archive"),
    "Parquet under another name": ("x.jsonl", b"PAR1abcPAR1", "this is a Parquet file under another name\nRename it"),
    "no zstd": ("x.jsonl.zst", b"(\xb5/\xfd0000000000", "x.jsonl.zst: the .zst file is damaged"),
    "no xz": ("x.jsonl.xz", b"0000000000", "x.jsonl.xz: the .xz file is damaged"),
    "cut bz2": ("x.jsonl.bz2", bz2.compress(GOOD.encode() * 9)[:-9], "x.jsonl.bz2: the .bz2 file is damaged"),
    "not JSON behind a row that cannot be used": (
        "x.json",
        b'[{"a": 1, "a": 2},\n{"b": }]',
        "x.json:2:7: not JSON: Expecting value",
    ),
    "cut off behind it": ("x.json", b'[{"a": 1, "a": 2}, 3', "x.json:1:21: not JSON: Expecting ',' delimiter"),
    "more behind it": ("x.json", b'[{"a": 1, "a": 2}] 3', "x.json:1:20: not JSON: Extra data"),
    "a huge number alone": ("x.json", b'{"a": ' + b"9" * 5000 + b"}", "x.json: a number has too many digits"),
    "single quotes": ("x.jsonl", b"{'prompt': 'a'}", "JSON has double quotes"),
    "a column twice": (
        "x.csv",
        b"a,b,a\n1,2,3\n",
        "the header (ends on line 1): the header names the column a twice",
    ),
    "half a UTF-16 character": ("x.json", "[1]".encode("utf-16") + b"x", "the UTF-16 text is damaged"),
    "no such split in it": ("x.json", b'{"test": [{"a": 1}]}', "the file has no split 'train'\nIt has: test."),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / name)
    assert message in str(caught.value)
    assert caught.value.hint


def test_missing_files_suggest_the_nearest_name(tmp_path):
    write(tmp_path, ".jsonl")
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "row.jsonl")
    assert f"Did you mean {tmp_path / 'rows.jsonl'}?" in str(caught.value)
    assert "--set data.sources.0.path=" in str(caught.value)
    with pytest.raises(DataError, match="no folder"):
        rows_of(tmp_path / "none" / "rows.jsonl")
    with pytest.raises(DataError, match="no such built-in data"):
        rows_of("builtin:huge")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        rows_of(tmp_path / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path, ".jsonl")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        rows_of(path)


def test_hub_names_without_a_network_say_what_to_do():
    with pytest.raises(DataError) as caught:
        open_source(SourceSection(path="Dahoas/rm-static"), seed=1, number=2)
    assert "data.sources.2: Dahoas/rm-static" in str(caught.value)
    assert "--set data.sources.2.path=" in str(caught.value)


def test_other_content_has_another_identity(tmp_path):
    path = write(tmp_path, ".jsonl")
    before = local_streams(str(path))[0].identity
    path.write_text(GOOD)
    assert local_streams(str(path))[0].identity != before


# --- what is measured with ------------------------------------------------------------------


def test_prompts_to_measure_with(write_lines):
    path = write_lines(
        [{"prompt": "Human: Hi\n\nAssistant:", "accepted": "Hello."},
         {"messages": [{"role": "user", "content": "x"}], "accepted": ["a", "b"], "skill": "letters"}]
    )  # fmt: skip
    first, second = read_prompts(str(path), 1)
    assert (first.turns[0].content, first.accepted, first.skill) == ("Hi", ("Hello.",), "")
    assert (second.accepted, second.skill) == (("a", "b"), "letters")
    assert {row.skill for row in read_prompts("builtin:tiny", 1)} and read_prompts("builtin:tiny", 1)[0].accepted


WITHOUT_ANSWERS = {  # a prompt → its turns, the skill, questions that are not asked
    "MT-bench": (
        {"question_id": 81, "category": "writing", "turns": ["a", "b"], "reference": ["x"]},
        "a",
        "writing",
        1,
    ),
    "a question": ({"question": "a"}, "a", "", 0),
    "an instruction": ({"instruction": "a", "input": "b", "dataset": "x"}, "a\nb", "", 0),
    "a query": ({"query": "a"}, "a", "", 0),
    "ShareGPT's": ({"conversations": [{"from": "human", "value": "a"}]}, "a", "", 0),
    "content in parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "a", "", 0),
    "null columns": ({"messages": None, "prompt": "a"}, "a", "", 0),
}


@pytest.mark.parametrize(("row", "said", "skill", "unasked"), WITHOUT_ANSWERS.values(), ids=WITHOUT_ANSWERS.keys())
def test_prompts_without_answers(write_lines, row, said, skill, unasked):
    use = ColumnUse()
    (found,) = read_prompts(str(write_lines([row])), 1, use)
    assert ([turn.content for turn in found.turns], found.skill, found.unasked) == ([said], skill, unasked)
    assert set(use.shares()) == {name for name in row if name in ("question_id", "reference", "dataset")}


def test_the_system_column_of_a_prompt(write_lines):
    (found,) = read_prompts(str(write_lines([{"system": "Be kind.", "prompt": "a"}])), 1)
    assert [(turn.role, turn.content) for turn in found.turns] == [("system", "Be kind."), ("user", "a")]


def test_pairs_to_measure_with(write_lines):
    path = write_lines([{"prompt": "x", "chosen": "a", "rejected": "b", "kind": "k"}] * 12)
    assert len(read_pairs(str(path), 1)) == 12
    assert len(read_pairs("builtin:tiny", 1)) == 1200


EVALUATION = {
    "no prompt": (
        read_prompts,
        {"text": "x"},
        "question, instruction, query, turns; this row has text",
    ),
    "ends with an answer": (
        read_prompts,
        {"messages": [{"role": "assistant", "content": "x"}]},
        "the prompt ends with the assistant's turn",
    ),
    "the assistant first": (
        read_prompts,
        {"messages": [{"role": "assistant", "content": "Welcome!"}, {"role": "user", "content": "Hi"}]},
        "line 1: the assistant speaks first: there is no prompt",
    ),
    "images": (read_prompts, {"prompt": "x", "image": "a.png"}, "image is not empty: the row is about more than"),
    "accepted": (
        read_prompts,
        {"prompt": "x", "accepted": 3},
        "accepted is neither a text nor a list of texts",
    ),
    "same answers": (
        read_pairs,
        {"prompt": "x", "chosen": "a", "rejected": "a"},
        "line 1: chosen and rejected are the same",
    ),
    "dialogue": (read_pairs, {"prompt": "x", "response": "a"}, "ranking needs chosen and rejected answers"),
}


@pytest.mark.parametrize(("reader", "row", "message"), EVALUATION.values(), ids=EVALUATION.keys())
def test_broken_evaluation_rows(write_lines, reader, row, message):
    with pytest.raises(DataError) as caught:
        reader(str(write_lines([row])), 1)
    assert message in str(caught.value)
