"""Files as people have them: packed, in other encodings, in other layouts; and one row that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhfcli.data.preparation.prepare import prepare
from rlhfcli.data.reading.files import read_rows
from rlhfcli.data.reading.rows import Unreadable
from rlhfcli.data.sources.sources import open_source
from rlhfcli.data.store.prepared import REJECTED
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import SourceSection
from tests.data.conftest import pair
from tests.data.preparation.test_prepare import Notes

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c, d", "response": "東京 é"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
LIST = json.dumps(ROWS)
CSV = 'prompt,response\na,b\n"c, d",東京 é\n'


def zstd(text):
    return pa.compress(text.encode(), "zstd", asbytes=True)


def utf16(text, codec="utf-16"):
    return text.encode(codec)


def written(name):
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    if name.endswith(".parquet"):
        parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


LAYOUTS = {  # a file's name → its content; each holds ROWS
    "lines, other ending": ("x.ndjson", LINES.encode()),
    "capitals": ("X.JSONL", LINES.encode()),
    "packed, capitals": ("X.JSONL.GZ", gzip.compress(LINES.encode())),
    "zstd": ("x.jsonl.zst", zstd(LINES)),
    "zstd, a document": ("x.json.zst", zstd(LIST)),
    "bz2": ("x.jsonl.bz2", bz2.compress(LINES.encode())),
    "xz": ("x.csv.xz", lzma.compress(CSV.encode())),
    "gzip under the plain name": ("x.jsonl", gzip.compress(LINES.encode())),
    "plain under the packed name": ("x.jsonl.gz", LINES.encode()),
    "UTF-16": ("x.jsonl", utf16(LINES)),
    "UTF-16, big end first": ("x.json", b"\xfe\xff" + utf16(LIST, "utf-16-be")),
    "UTF-16 without a mark": ("x.csv", utf16(CSV, "utf-16-le")),
    "carriage returns": ("x.jsonl", LINES.replace("\n", "\r").encode()),
    "carriage returns, CSV": ("x.csv", CSV.replace("\n", "\r").encode()),
    "a list on one line": ("x.jsonl", LIST.encode()),
    "a list over lines": ("x.jsonl", json.dumps(ROWS, indent=2).encode()),
    "objects over lines": ("x.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
    "objects over lines, a document": ("x.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
    "data": ("x.json", json.dumps({"version": "1", "data": ROWS}).encode()),
    "splits": ("x.json", json.dumps({"test": [{"a": 1}], "train": ROWS}).encode()),
    "splits by other words": ("x.json", json.dumps({"training": ROWS, "dev": []}, indent=1).encode()),
    "columns": ("x.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode()),
    "pandas": ("x.json", json.dumps({name: {k: row[name] for k, row in enumerate(ROWS)} for name in ROWS[0]}).encode()),
    "pandas, split": (
        "x.json",
        json.dumps({"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}).encode(),
    ),
    "semicolons": ("x.csv", 'prompt;response\na;b\n"c, d";東京 é\n'.encode()),
    "tabs": ("x.csv", "prompt\tresponse\na\tb\nc, d\t東京 é\n".encode()),
    "tabs by name": ("x.tsv", "prompt\tresponse\na\tb\nc, d\t東京 é\n".encode()),
    "spaces in the header": ("x.csv", CSV.replace("prompt,response", " prompt , response").encode()),
    "commas at the end": ("x.csv", 'prompt,response\na,b,\n"c, d",東京 é,\n'.encode()),
    "Parquet": ("x.parquet", written("x.parquet")),
    "Parquet, packed": ("x.parquet.gz", gzip.compress(written("x.parquet"))),
    "Arrow": ("x.arrow", written("x.arrow")),
    "blank lines": ("x.csv", f"\n\n{CSV}\n".replace("\na,b", "\n\na,b").encode()),
}


@pytest.mark.parametrize(("name", "content"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert [row for row, _ in read_rows(tmp_path / name)] == ROWS


def test_one_object_is_one_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "x"}], "data": 3, "test_cases": [{"a": 1}]}
    (tmp_path / "x.json").write_text(json.dumps(row, indent=2))
    assert [found for found, _ in read_rows(tmp_path / "x.json")] == [row]


def test_the_splits_of_one_json_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]}))

    def rows(**asked):
        return [row["a"] for stream in open_source(SourceSection(path=str(path), **asked), 1) for row, _ in stream.rows]

    assert (rows(), rows(split="test"), rows(split="train")) == ([1], [2], [1])
    with pytest.raises(DataError, match="the file has no split 'dev'"):
        rows(split="dev")
    path.write_text(json.dumps({"train_a": [{"a": 1}], "train_b": [{"a": 2}]}))
    assert rows(split="train_b") == [2]
    path.write_text(json.dumps([{"a": 1}]))
    with pytest.raises(DataError, match="the file has no split 'test'"):
        rows(split="test")


# --- one row that cannot be read ----------------------------------------------------------------------------

A, B = '{"a": 1}', '{"a": 2}'
HUGE, DEEP = '{"a": ' + "9" * 5000 + "}", '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
TWICE, HALF = '{"a": 1, "b": 2, "a": 3}', '{"x": [{"b\\ud83d": 1}]}'
SAME, WHOLE = '{"a": 1, "a": 1}', '{"a": 1, "b": "\\ud83d\\ude00"}'
UNUSED = {  # what stands between two good rows → why it is not used; empty where it is
    "digits": (HUGE, "a number has too many digits"),
    "depth": (DEEP, "its lists and objects are nested too deeply"),
    "a key twice": (TWICE, "the key a stands twice in an object, with different values"),
    "a key twice, the same": (SAME, ""),
    "half a character in a name": (HALF, "the name of a column holds half a character, 'b\\ud83d'"),
    "a whole character": (WHOLE, ""),
}


@pytest.mark.parametrize("layout", ["lines", "list", "list over lines", "list as .jsonl", "objects"])
@pytest.mark.parametrize(("text", "reason"), UNUSED.values(), ids=UNUSED.keys())
def test_a_row_of_json_that_nobody_can_use(tmp_path, text, reason, layout):
    content = {
        "lines": f"{A}\n{text}\n{B}",
        "list": f" [{A}, {text} ,{B}]",
        "list over lines": f"[\n{A},\n{text},\n{B}\n]\n",
        "list as .jsonl": f"[\n{A},\n{text},\n{B}\n]\n",
        "objects": f"{{\n{A[1:]}\n{text}\n{B}",
    }[layout]
    path = tmp_path / ("x.jsonl" if layout in ("lines", "list as .jsonl") else "x.json")
    path.write_text(content)
    first, middle, last = (row for row, _ in read_rows(path))
    assert (first, last) == ({"a": 1}, {"a": 2})
    if not reason:
        assert middle["a"] == 1
        return
    assert isinstance(middle, Unreadable) and middle.reason == reason and middle.start == text[:1000]


def test_the_first_row_may_be_unusable(tmp_path):
    (tmp_path / "x.jsonl").write_text(f"{HUGE}\n{A}\n")
    first, second = (row for row, _ in read_rows(tmp_path / "x.jsonl"))
    assert isinstance(first, Unreadable) and second == {"a": 1}


CSV_ROWS = {  # lines below the header a,b and the row 1,2 → what is read, by line
    "a quote": (b'"x"y,3\n4,5\n', ["not CSV: ',' expected after '\"' (ends on line 3)", ("4", "5")]),
    "a quote that is never closed": (
        b'"x,3\n4,5\n6,7\n',
        ["not CSV: unexpected end of data (ends on line 3)", ("4", "5"), ("6", "7")],
    ),
    "a quote that another row closes": (
        b'"x,3\n4,5\n"q",7\n',
        ["not CSV: ',' expected after '\"' (ends on line 3)", ("4", "5"), ("q", "7")],
    ),
    "Latin-1": (b"\xe9,3\n4,5\n", ["not UTF-8: byte 1 is 0xe9 (ends on line 3)", ("4", "5")]),
    "the header": (b"a,b\n4,5\n", ["the header stands here once more (ends on line 3)", ("4", "5")]),
    "fields": (b"1\n1,2,3\n", [f"the row has {n} fields than the header's 2 (ends on line {k})"
                               for n, k in (("fewer", 3), ("more", 4))]),
    "empty fields": (b"4,5,,\n,\n", [("4", "5"), ("", "")]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), CSV_ROWS.values(), ids=CSV_ROWS.keys())
def test_a_row_of_csv_that_cannot_be_read(tmp_path, content, expected):
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,2\n" + content)
    first, *others = (row for row, _ in read_rows(tmp_path / "x.csv"))
    assert first == {"a": "1", "b": "2"}
    assert [row.reason if isinstance(row, Unreadable) else tuple(row.values()) for row in others] == expected


def test_a_header_that_is_repeated_is_no_fault(tokenizer, make_recipe, tmp_path):
    lines = ["prompt,chosen,rejected", *(f"question {k}?,yes {k},no" for k in range(30))]
    (tmp_path / "x.csv").write_text("\n".join(lines * 2) + "\n")
    prepared = prepare(make_recipe(tmp_path / "x.csv"), tokenizer, tmp_path / "data", Silent())
    assert prepared.manifest["sources"][0]["dropped"]["the header stands here once more"] == 1
    prepared.refuse_invalid()


@pytest.mark.parametrize("place", ["folder", "file"])
def test_names_that_are_not_utf8(tokenizer, make_recipe, tmp_path, place):
    folder = tmp_path / "set" / os.fsdecode(b"d\xe9" if place == "folder" else b"d")
    folder.mkdir(parents=True)
    path = folder / os.fsdecode(b"r\xe9.jsonl" if place == "file" else b"r.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in [*map(pair, range(30)), {"prompt": 1}]))
    prepared = prepare(make_recipe(tmp_path / "set"), tokenizer, tmp_path / "data", Silent())
    assert "\\xe9" in prepared.dialogues("train").origin(0) and prepared.manifest["sources"][0]["kept"] == 30
    assert "\\xe9" in json.loads((tmp_path / "data" / REJECTED).read_text())["file"]


def test_empty_files_beside_others(tokenizer, make_recipe, write_lines, tmp_path):
    (tmp_path / "set").mkdir()
    for name, rows in (("train-0.jsonl", []), ("train-1.jsonl", [pair(k) for k in range(30)]), ("train-2.jsonl", [])):
        write_lines(rows, f"set/{name}")
    sink = Notes()
    prepared = prepare(make_recipe(tmp_path / "set"), tokenizer, tmp_path / "data", sink)
    assert prepared.manifest["sources"][0]["kept"] == 30
    assert sink.notes == [f"{tmp_path}/set/train-{k}.jsonl has no rows" for k in (0, 2)]
    write_lines([], "set/train-1.jsonl")
    with pytest.raises(DataError, match="none of its 3 files has rows"):
        prepare(make_recipe(tmp_path / "set"), tokenizer, tmp_path / "data", Silent())


# --- the first rows -----------------------------------------------------------------------------------------

FIRST = {  # lines of a file → what is said; empty where its last 30 rows, which are pairs, are used
    "other rows first": ([{"note": "x"}] * 12, ""),
    "capitals": ([{"Prompt": f"q {k}", " CHOSEN ": f"a {k}", "Rejected": "b"} for k in range(30)], ""),
    "no row that can be read": (
        ['{"a": 1, "a": 2}'] * 3,
        "line 1: none of its rows can be read; the first: the key a stands twice in an object",
    ),
    "several reasons": (
        [*[{"prompt": "a", "chosen": 3, "rejected": "b"}] * 3, "{", {"prompt": "a", "chosen": "", "rejected": "b"}],
        "none of the 5 rows can be used; 3 of them: chosen is a number, not text\n1 of them: not JSON: Expecting",
    ),
    "nothing that is known": ([{"note": "x"}] * 12, "its rows fit no known shape; the first one has: note"),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_first_rows_need_not_show_the_shape(tokenizer, make_recipe, tmp_path, case):
    rows, said = FIRST[case]
    rows = [*rows, *([] if said or case == "capitals" else map(pair, range(30)))]
    path = tmp_path / "x.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    if said:
        with pytest.raises(DataError) as caught:
            prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent())
        assert said in str(caught.value)
        return
    assert prepare(make_recipe(path), tokenizer, tmp_path / "data", Silent()).manifest["sources"][0]["kept"] == 30


# --- files that are damaged ---------------------------------------------------------------------------------


def spoilt(content, chance):
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 3])):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(4):
            case 0:
                content[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del content[at:]
            case 2:
                content[at:at] = chance.choice(
                    [b'"', b"{", b"]", b"\r", b"\0", b"\xff\xfe", b"\\ud83d", b"9" * 5000, b"[" * 50_000]
                )
            case _:
                del content[at : at + chance.randrange(1, 40)]
    return bytes(content)


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_damaged_file_is_an_error_that_says_what_to_do_or_gives_rows(tmp_path, case):
    name, content = LAYOUTS[case]
    chance = random.Random(case)
    for _ in range(30):
        (tmp_path / name).write_bytes(spoilt(content, chance))
        try:
            list(read_rows(tmp_path / name))
        except DataError as error:
            assert error.where and error.hint
