"""Bad input at the command line: exit code 2, one message without a traceback that says what, where and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhfcli import tiny
from tests.e2e.conftest import changes

PAIRS = [{"prompt": f"Question {n}?", "chosen": f"Answer {n}.", "rejected": "No."} for n in range(40)]


def jsonl(rows: list[object], name: str = "data.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def text(content: str, name: str = "data.jsonl") -> None:
    Path(name).write_text(content)


def model_without(*patterns: str) -> None:
    shutil.copytree(tiny.model_folder(), "model", ignore=shutil.ignore_patterns(*patterns))


def model_of_family(config: dict[str, object]) -> None:
    model_without()
    text(json.dumps(config), "model/config.json")


def no_files() -> None:
    pass


def spoilt_tokenizer() -> None:
    model_without()
    text("gibberish{", "model/tokenizer.json")


def recipe_file(content: str) -> Callable[[], None]:
    return lambda: text(content, "my.yaml")


RECIPE = "output_dir: runs/x\nmodel: {name: builtin:tiny}\ndata: {sources: [{path: builtin:tiny}]}\n"
DATA, JSON, CSV, PICTURE, HUB = (
    ["--set", f"data.sources=[{{path: {name}}}]"]
    for name in ("data.jsonl", "data.json", "data.csv", "./data.png", "somebody/pairs")
)
TINY = ["-r", "tiny", "--set", "output_dir=runs/x"]

# what is there → command → what is said, in any order
RECIPES = {
    "unknown keys": (
        recipe_file(RECIPE + "sft: {lr: 1e-4}\nlora: {rank: 4}\nrewrd: {}\n"),
        ["run", "-r", "my.yaml"],
        [
            "my.yaml:4: sft.lr: unknown key; did you mean sft.learning_rate?",
            "my.yaml:5: lora: unknown key; it belongs into a phase: sft.lora or reward.lora",
            "my.yaml:6: rewrd: unknown key; did you mean reward?",
        ],
    ),
    "wrong types": (
        recipe_file(RECIPE + 'seed: "3"\nsft: {epochs: many, batch_size: 2.5}\n'),
        ["sft", "-r", "my.yaml"],
        ['my.yaml:4: seed: must be a whole number, got the text "3"', "my.yaml:5: sft.epochs", "sft.batch_size"],
    ),
    "no recipe": (no_files, ["sft", "-r", "my.yaml"], ["my.yaml: there is no such recipe file", "Built in: tiny"]),
    "a folder": (no_files, ["sft", "-r", "."], ["this folder has no recipe.yaml", "--recipe takes a file"]),
    "--set": (no_files, ["sft", "--set", "sft"], ["--set #1: write it as key=value"]),
    "--set with a new section": (no_files, ["sft", "--set", "modle.name=x"], ["--set #1: modle: unknown key"]),
    "nothing is there": (no_files, ["eval"], ["runs/tiny: nothing is trained yet", "Run rlhf sft"]),
    "nobody to talk to": (no_files, ["chat"], ["no fine-tuned model to talk to yet", "Run rlhf sft or rlhf run"]),
}

ROWS = {
    "missing": (no_files, DATA, ["data.jsonl: there is no such file or folder", "--set data.sources.0.path="]),
    "empty": (lambda: text(""), DATA, ["data.jsonl: the file has no rows"]),
    "malformed first line": (
        lambda: text('{"prompt": oops\n{"prompt": "a", "chosen": "b", "rejected": "c"}\n'),
        DATA,
        ["data.jsonl:1:12: not JSON", "Fix the line, or take it out"],
    ),
    "wrong columns": (
        lambda: jsonl([{"prompt": "a", "good": "b", "bad": "c"}]),
        DATA,
        ["data.jsonl", "prompt, good, bad", "chosen, rejected"],
    ),
    "identical answers": (
        lambda: jsonl([row | {"rejected": row["chosen"]} for row in PAIRS]),
        DATA,
        ["none of the 40 rows can be used; 40 of them: chosen and rejected are the same"],
    ),
    "numbers for rows": (lambda: text('[1, "x", null]', "data.json"), JSON, ["data.json", "row"]),
    "an object for rows": (lambda: text('{"a": 1}', "data.json"), JSON, ["fit no known shape; the first one has: a"]),
    "CSV without the column": (
        lambda: text("prompt,chosen\na,b\n", "data.csv"),
        CSV,
        ["data.csv", "prompt, chosen", "rejected"],
    ),
    "CSV with a short first row": (
        lambda: text("prompt,chosen,rejected\na,b\na,b,c\n", "data.csv"),
        CSV,
        ["data.csv: row 1", "fewer fields than the header's 3"],
    ),
    "not UTF-8": (lambda: Path("data.jsonl").write_bytes(b'{"prompt": "\xff"}\n'), DATA, [":1: not UTF-8", "iconv"]),
    "a picture": (lambda: text("x", "data.png"), PICTURE, ["not a kind of data"]),
    "one question": (
        lambda: jsonl([{**pair, "prompt": "Tell me a story."} for pair in PAIRS[:4]]),
        DATA,
        ["data.sources: the", "begin with the same question", "--set data.split_by=row"],
    ),
    "copies only": (
        lambda: jsonl([PAIRS[0]] * 40),
        DATA,
        ["part of the sft phase is empty: 1 row can be used, 39 cannot", "Give more rows."],
    ),
    "one row": (
        lambda: jsonl(PAIRS[:1]),
        DATA,
        ["part of the sft phase is empty: 1 row can be used", "Give more rows."],
    ),
    "hub name": (
        no_files,
        HUB,
        ["data.sources.0: somebody/pairs: neither a local file or folder", "--set data.sources.0.path="],
    ),
    "no template": (no_files, ["--set", "data.template=model"], ["no chat template of its own", "human_assistant"]),
}

REWARD, SFT = "{project}/runs/tiny/reward/final", "{project}/runs/tiny/sft/final"
MODELS = {
    "reward model as the model": (no_files, ["chat", "-m", REWARD], ["this is a reward model", "--reward"]),
    "language model as --reward": (
        no_files,
        ["chat", "-m", SFT, "--reward", SFT],
        ["this is a language model: it has no head", "reward/final"],
    ),
    "a folder above": (
        no_files,
        ["chat", "-m", "{project}/runs/tiny/sft"],
        ["no config.json", "Did you mean ", "runs/tiny/sft/final?"],
    ),
    "no such folder": (no_files, ["chat", "-m", "./nowhere"], ["./nowhere: there is no such folder"]),
    "no weights": (
        lambda: model_without("*.safetensors"),
        ["sft", *TINY, "--set", "model.name=model"],
        ["model: the model folder has no weights", "It needs model.safetensors"],
    ),
    "longer rows than the model reads": (
        lambda: model_of_family({"model_type": "gpt2", "n_positions": 64}),
        ["prepare-data", *TINY, "--set", "model.name=model"],
        ["model: data.max_length is 256, and this model reads at most 64 tokens", "--set data.max_length=64"],
    ),
    "a family without a reward form, before its first phase": (
        lambda: model_of_family({"model_type": "cohere", "hidden_size": 64, "num_attention_heads": 4}),
        ["run", *TINY, "--set", "model.name=model"],
        ["no reward model can be made from this family", "CohereForSequenceClassification", "rlhf sft works with it"],
    ),
    "no tokenizer": (
        lambda: model_without("tokenizer*"),
        ["sft", *TINY, "--set", "model.name=model"],
        ["model: the model folder has no tokenizer", "It needs tokenizer.json"],
    ),
    "gibberish tokenizer": (
        spoilt_tokenizer,
        ["sft", *TINY, "--set", "model.name=model"],
        ["model: the tokenizer cannot be loaded"],
    ),
    "hub name, offline": (
        no_files,
        ["sft", "-r", "opt125m"],
        ["facebook/opt-125m: the tokenizer was not found locally or on the Hub", "--set model.name=path/to/folder"],
    ),
    "LoRA on nothing": (
        no_files,
        ["sft", *TINY, "--set", "sft.lora.targets=[nothing]"],
        ["nothing"],
    ),
    "only dialogues": (
        no_files,
        [
            "reward",
            *TINY,
            "--set",
            "data.sources=[{path: builtin:tiny/dialogues, limit: 60}]",
            "--set",
            "data.validation=0.2",
            "--set",
            "reward.init_from=base",
        ],
        ["no preference rows for the reward phase", "Add a source with chosen and rejected"],
    ),
    "only pairs for the reward phase": (
        no_files,
        [
            "sft",
            *TINY,
            "--set",
            "data.sources=[{path: builtin:tiny/pairs, limit: 60, phase: reward}]",
            "--set",
            "data.validation=0.2",
        ],
        ["data.sources: none is for sft", "reward.init_from: base"],
    ),
}
# what an hour of training must not be spent on first
AHEAD = {
    "no pairs": (
        no_files,
        ["data.sources=[{path: builtin:tiny/dialogues, limit: 60}]"],
        ["no preference rows for the reward phase"],
    ),
    "no prompts": (no_files, ["eval.prompts=prompts.jsonl"], ["prompts.jsonl: there is no such file or folder"]),
    "bad prompts": (
        lambda: jsonl([{"x": 1}], "p.jsonl"),
        ["eval.prompts=p.jsonl"],
        ["p.jsonl: line 1: a prompt needs"],
    ),
    "bad pairs": (
        lambda: jsonl([{"prompt": "a", "response": "b"}], "p.jsonl"),
        ["eval.pairs=p.jsonl"],
        ["p.jsonl: line 1: this is a dialogue"],
    ),
}

FOLDERS = {
    "below a file": (lambda: text("", "file"), "file/run", ["file/run: the output folder cannot be written"]),
    "a file": (lambda: text("", "file"), "file", ["file: the output folder is a file"]),
    "no permission": (no_files, "/proc/run", ["/proc/run: the output folder cannot be written"]),
    "holds something other than": (lambda: text("mine"), ".", ["the output folder holds something other than a run"]),
}


def check(done, said):
    assert (done.code, done.out) == (2, ""), done.err
    assert "Traceback" not in done.err
    assert [part for part in said if part not in done.err] == [], done.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name, here, rlhf):
    make, command, said = RECIPES[name]
    make()
    check(rlhf(*command), said)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ROWS)
def test_rows(name, here, rlhf):
    make, options, said = ROWS[name]
    make()
    check(rlhf("prepare-data", *TINY, *options), said)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", MODELS)
def test_models(name, here, rlhf, project):
    make, command, said = MODELS[name]
    make()
    small = changes(eval__prompts="null") if command[0] != "chat" and "tiny" in command else []
    check(rlhf(command[0], *small, *(part.replace("{project}", str(project.folder)) for part in command[1:])), said)


@pytest.mark.parametrize("name", AHEAD)
def test_run_says_before_the_training_what_will_fail_after_it(name, here, rlhf):
    make, settings, said = AHEAD[name]
    make()
    options = [part for setting in settings for part in ("--set", setting)]
    check(rlhf("run", *changes(eval__prompts="null"), *options), said)
    assert not Path("runs/tiny/sft").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_output_folders(name, here, rlhf):
    make, folder, said = FOLDERS[name]
    make()
    before = sorted(here.rglob("*"))
    check(
        rlhf("sft", "--set", f"output_dir={folder}"), [*said, "--set output_dir=" if name != "a file" else "output_dir"]
    )
    assert sorted(here.rglob("*")) == before


STRICT = {  # lines behind forty good ones → what --strict says of the first
    "malformed": ('{"prompt": oops', "data.jsonl: line 41: not JSON: Expecting value"),
    "without the column": ('{"prompt": "x", "chosen": "y"}', "data.jsonl: line 41: the row lacks rejected"),
    "not UTF-8": ('{"prompt": "\udcff"}', "data.jsonl: line 41: not UTF-8: byte 13 is 0xff"),
    "empty": ('{"prompt": "x", "chosen": "", "rejected": "y"}', "data.jsonl: line 41: chosen is empty"),
}


@pytest.mark.parametrize("name", STRICT)
def test_strict_makes_a_bad_row_an_error(name, here, rlhf):
    line, said = STRICT[name]
    good = "".join(json.dumps(row) + "\n" for row in PAIRS)
    Path("data.jsonl").write_bytes((good + line + "\n").encode(errors="surrogateescape"))
    options = [*TINY, *DATA, "--set", "data.validation=0.3"]
    assert rlhf("prepare-data", *options).code == 0
    check(
        rlhf("prepare-data", *options, "--strict"), ["1 row cannot be used", said, "Fix these rows, or take them out"]
    )


def test_rows_that_cannot_be_used_are_counted_and_named(here, rlhf):
    bad = [{"prompt": "x", "chosen": "y", "rejected": "y"}, PAIRS[0], {"prompt": "", "chosen": "a", "rejected": "b"}]
    jsonl([*PAIRS, *bad])
    done = rlhf("prepare-data", *TINY, *DATA, "--set", "data.validation=0.3", "--json")
    assert done.code == 0, done.err
    source = json.loads(done.out)["sources"][0]
    assert (source["read"], source["kept"], sum(source["dropped"].values())) == (43, 40, 3)
    named = [json.loads(line) for line in Path("runs/x/data/rejected_rows.jsonl").read_text().splitlines()]
    assert [f"line {number}" in str(row) for number, row in zip((41, 42, 43), named, strict=True)] == [True] * 3


def test_a_loss_that_is_no_number_ends_with_1(here, rlhf):
    done = rlhf("sft", *changes(sft__learning_rate="1e20", sft__max_grad_norm="1e30", eval__prompts="null"))
    assert (done.code, done.out) == (1, "")
    assert "training stopped: sft" in done.err and "Lower the learning rate" in done.err
    assert "Traceback" not in done.err
    assert not Path("runs/tiny/sft/final").exists()
