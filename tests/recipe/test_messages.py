"""Invalid recipe → message. The line numbers count from the first line of BASE."""

import pytest

from rlhfcli.errors import RecipeError
from rlhfcli.recipe.loader import load_recipe

BASE = """\
output_dir: runs/x
model: {name: builtin:tiny}
data:
  sources:
    - {path: builtin:tiny}
"""

# lines after BASE (the first is line 6) → messages without the file's name
BROKEN = [
    ("sft: {learning_rat: 1}", ["6: sft.learning_rat: unknown key; did you mean sft.learning_rate?"]),
    ("sft: {learning-rate: 1}", ["6: sft.learning-rate: unknown key; did you mean sft.learning_rate?"]),
    ("lr: 1e-5", ["6: lr: unknown key; did you mean sft.learning_rate or reward.learning_rate?"]),
    ("reward:\n  lr: 1e-5", ["7: reward.lr: unknown key; did you mean reward.learning_rate?"]),
    ("sft: {lora: {lora_r: 8}}", ["6: sft.lora.lora_r: unknown key; did you mean sft.lora.rank?"]),
    ("sft: {lora_dim: 8}", ["6: sft.lora_dim: unknown key; did you mean sft.lora.rank?"]),
    ("sft: {num_train_epochs: 8}", ["6: sft.num_train_epochs: unknown key; did you mean sft.epochs?"]),
    ("model_name_or_path: x", ["6: model_name_or_path: unknown key; did you mean model.name?"]),
    ("cutoff_len: 8", ["6: cutoff_len: unknown key; did you mean data.max_length?"]),
    ("zero_stage: 8", ["6: zero_stage: unknown key; did you mean deepspeed.zero_stage?"]),
    ("save_steps: 8", ["6: save_steps: unknown key; did you mean checkpoint.every?"]),
    ("every: 8", ["6: every: unknown key; did you mean eval.every or checkpoint.every or logging.every?"]),
    (
        "sft: {gradient_accumulation_steps: 4}",
        [
            "6: sft.gradient_accumulation_steps: unknown key; accumulation is derived from batch_size and "
            "micro_batch_tokens; leave it out"
        ],
    ),
    (
        "per_device_train_batch_size: 4",
        [
            "6: per_device_train_batch_size: unknown key; batch_size counts all devices together, "
            "micro_batch_tokens says what one device holds at a time"
        ],
    ),
    (
        "sft: {warmup_steps: 4}",
        ["6: sft.warmup_steps: unknown key; write schedule.warmup_ratio, the share of all steps (0.03)"],
    ),
    (
        "lora: {rank: 4}",
        ["6: lora: unknown key; it belongs into a phase: sft.lora or reward.lora"],
    ),
    ("early_stopping_patience: 3", ["6: early_stopping_patience: unknown key; did you mean checkpoint.patience?"]),
    (
        "checkpoint: {patience: 3}",
        ["6: checkpoint.patience: needs checkpoint.best_by: loss or accuracy, which says what is better"],
    ),
    (
        "deepspeed: {qwertz: 1}",
        ["6: deepspeed.qwertz: unknown key; the keys of deepspeed are zero_stage, offload, nvme, config"],
    ),
    (
        "deepspeed: {zero_stage: 1, offload: all}",
        ["6: deepspeed.offload: all needs deepspeed.zero_stage: 3, got 1; optimizer works with the stages 1, 2 and 3"],
    ),
    (
        "deepspeed: {zero_stage: 0, offload: optimizer}",
        ["6: deepspeed.offload: optimizer needs deepspeed.zero_stage: 1, 2 or 3, got 0"],
    ),
    (
        "deepspeed: {zero_stage: 3, nvme: /mnt/fast}",
        ["6: deepspeed.nvme: nothing is offloaded: give deepspeed.offload: optimizer or all, too"],
    ),
    (
        "deepspeed:\n  zero_stage: 2\n  offload: optimizer\n  nvme: /mnt/fast",
        ["9: deepspeed.nvme: files need deepspeed.zero_stage: 3, got 2; without nvme memory is used"],
    ),
    ("deepspeed: {config: 3}", ["6: deepspeed.config: must be a section or text, got 3"]),
    ("deepspeed: {cpu_offload: true}", ["6: deepspeed.cpu_offload: unknown key; did you mean deepspeed.offload?"]),
    ("ds_config: ds.json", ["6: ds_config: unknown key; did you mean deepspeed.config?"]),
    ("sft: {epochs: 0}", ["6: sft.epochs: must be greater than 0, got 0"]),
    ("sft: {epochs: .nan}", ["6: sft.epochs: must be a finite number, got nan"]),
    ("sft: {batch_size: 0}", ["6: sft.batch_size: must be at least 1, got 0"]),
    ("sft: {batch_size: 1.5}", ["6: sft.batch_size: must be a whole number, got 1.5"]),
    ("sft: {batch_size: true}", ["6: sft.batch_size: must be a whole number, got true"]),
    ("sft: {learning_rate: fast}", ['6: sft.learning_rate: must be a number, got the text "fast"']),
    (
        'sft: {learning_rate: "1e-5"}',
        ['6: sft.learning_rate: must be a number, got the text "1e-5"; leave out the quotes'],
    ),
    (
        "model: {trust_remote_code: no}",
        [
            "6: model: given twice, first in line 2; keep one of them",
        ],
    ),
    ("reward: {loss: {margin: yes}}", ['6: reward.loss.margin: must be true or false, got the text "yes"']),
    ("chat: {top_p: 1.5}", ["6: chat.top_p: must be at most 1, got 1.5"]),
    ("sft: {lora: {dropout: 1}}", ["6: sft.lora.dropout: must be less than 1, got 1"]),
    (
        "reward: {pooling: lst}",
        ['6: reward.pooling: must be last, mean or tokenwise, got the text "lst"; did you mean last?'],
    ),
    ("deepspeed: {zero_stage: 4}", ["6: deepspeed.zero_stage: must be 0, 1, 2 or 3, got 4"]),
    ("eval: {batches: 0}", ["6: eval.batches: must be all or at least 1, got 0"]),
    ("eval: {batches: some}", ['6: eval.batches: must be all or a whole number, got the text "some"']),
    ("sft: {lora: {targets: 3}}", ["6: sft.lora.targets: must be text or a list, got 3"]),
    ("sft: {lora: {targets: [q_proj, 3]}}", ["6: sft.lora.targets.1: must be text, got 3"]),
    ("sft: {betas: [0.9]}", ["6: sft.betas.1: an entry is missing"]),
    (
        "chat:",
        ["6: chat: must be a section with keys of its own, got nothing; leave the line out for the defaults"],
    ),
    ("chat: 3", ["6: chat: must be a section with keys of its own, got 3"]),
    ("sft:\n  epochs: 1\n  epochs: 2", ["8: sft.epochs: given twice, first in line 7; keep one of them"]),
    (
        "seed: !!python/object:os.system 3",
        ["6: seed: tags such as !!int are not used in recipes; leave it out"],
    ),
    ("? [a]\n: 3", ["6: a key must be a plain word"]),
    ("data2: {template: x}", ["6: data2: unknown key; did you mean data?"]),
    (
        "eval: {prompts: builtin:small}",
        ['6: eval.prompts: "builtin:small" is not built in; there is builtin:tiny'],
    ),
    (
        "eval:\n  pairs: {easy: builtin:small, hard: b.jsonl}",
        ['7: eval.pairs.easy: "builtin:small" is not built in; there is builtin:tiny'],
    ),
    ("eval: {pairs: 3}", ["6: eval.pairs: must be text or a section, got 3"]),
    ("eval: {prompts: {easy: 3}}", ["6: eval.prompts.easy: must be text, got 3"]),
    (
        "sft:\n  epochs: 0\nseed: -1\nlr: 3",
        [
            "7: sft.epochs: must be greater than 0, got 0",
            "8: seed: must be at least 0, got -1",
            "9: lr: unknown key; did you mean sft.learning_rate or reward.learning_rate?",
        ],
    ),
]

COLON = "a second ':' in this line, or the line is indented too far; put text that holds ': ' in quotes"
# whole files
BOMB = "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9) if before else 'x'}]\n"
    for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)
UNREADABLE = [
    ("", ["r.yaml: the recipe is empty"]),
    ("# nothing\n", ["r.yaml: the recipe is empty"]),
    ("- a\n", ["r.yaml: the recipe holds a list, no keys"]),
    ("tiny\n", ['r.yaml: the recipe holds the text "tiny", no keys']),
    ("sft:\n\tepochs: 1\n", ["r.yaml:2: a tab is used for indentation; YAML needs spaces"]),
    (
        "a: b: c\n",
        ["r.yaml:1: " + COLON],
    ),
    ("a: [1, 2\nb: 3\n", ["r.yaml:2: a ',' or a closing ']' is missing"]),
    ("a: {b: 1\nc: 3\n", ["r.yaml:2: a ',' or a closing '}' is missing"]),
    ('a: "b\n', ["r.yaml:2: a quote is opened and never closed"]),
    (
        "a: 1\n  b: 2\n",
        ["r.yaml:2: " + COLON],
    ),
    ("  a: 1\n b: 2\n", ["r.yaml:2: the indentation does not fit the lines above"]),
    ("a: 1\nb\n", ["r.yaml:3: a ':' is missing after the key in this line or the one before"]),
    ("a: *b\n", ["r.yaml:1: '*' starts an alias that is not defined; put the text in quotes"]),
    ("a: @b\n", ["r.yaml:1: this character cannot start a value; put the text in quotes"]),
    ("a: 1\n---\nb: 2\n", ["r.yaml:2: a second document starts here (---); a recipe is one document"]),
    (BOMB, ["r.yaml:2: its aliases repeat more than 10,000 values; write them out"]),
    ("a: &x [*x]\n", ["r.yaml:1: not valid YAML: an alias contains itself"]),
    ("a: b\x07\n", ["r.yaml:1: the character U+0007 is not allowed in YAML"]),
    ("[" * 5000, ["r.yaml: the text is nested too deeply"]),
    (
        "seed: 1\n",
        ["r.yaml: output_dir: must be given", "r.yaml: model: must be given", "r.yaml: data: must be given"],
    ),
    (
        BASE.replace("{path: builtin:tiny}", "\n        format: pairs"),
        ["r.yaml:6: data.sources.0.path: must be given"],
    ),
    (
        BASE.replace("- {path: builtin:tiny}", "[]"),
        ["r.yaml:4: data.sources: must have at least 1 entry, got 0"],
    ),
    (BASE.replace("runs/x", '""'), ["r.yaml:1: output_dir: must not be empty"]),
]


def problems(folder, monkeypatch, text, changes=()):
    monkeypatch.chdir(folder)
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", changes)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(("lines", "expected"), BROKEN, ids=[lines.replace("\n", "|") for lines, _ in BROKEN])
def test_broken_key(tmp_path, monkeypatch, lines, expected):
    assert problems(tmp_path, monkeypatch, BASE + lines + "\n") == [f"r.yaml:{line}" for line in expected]


@pytest.mark.parametrize(("text", "expected"), UNREADABLE, ids=[repr(text[:24]) for text, _ in UNREADABLE])
def test_unreadable_file(tmp_path, monkeypatch, text, expected):
    assert problems(tmp_path, monkeypatch, text) == expected


def test_the_hint_says_where_to_look(tmp_path):
    (tmp_path / "r.yaml").write_text(BASE + "lr: 3")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert caught.value.hint == "see: rlhf recipes show tiny"


def test_not_utf8(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"seed: 1\nmodel: \xe9\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:2: this line is not UTF-8 text"):
        load_recipe(tmp_path / "r.yaml")


CHANGES = [
    ("sft.learning_rate=fast", '--set #1: sft.learning_rate: must be a number, got the text "fast"'),
    ("modle.name=x", "--set #1: modle: unknown key; did you mean model?"),
    ("sft.lr=1", "--set #1: sft.lr: unknown key; did you mean sft.learning_rate?"),
    ("sft.epochs", '--set #1: write it as key=value, such as --set sft.epochs=2; got "sft.epochs"'),
    ("=3", '--set #1: write it as key=value, such as --set sft.epochs=2; got "=3"'),
    ("sft..lora=3", '--set #1: write it as key=value, such as --set sft.epochs=2; got "sft..lora=3"'),
    ("seed.x=3", "--set #1: seed.x: seed is no section, so it cannot have a key x"),
    (
        "data.sources.path=3",
        "--set #1: data.sources.path: data.sources is a list: say which entry, such as data.sources.0.path",
    ),
    (
        "data.sources.2.path=x",
        "--set #1: data.sources.2.path: data.sources has 1 entry, counted from 0; the next new one is data.sources.1",
    ),
    ("sft.lora={rank: 0}", "--set #1: sft.lora.rank: must be at least 1, got 0"),
    ("sft={epochs: 1, epochs: 2}", "--set #1: sft: given twice, first in line 1; keep one of them"),
    ("sft.betas=[1", "--set #1: sft.betas: a ',' or a closing ']' is missing"),
    ("data.sources.0.limit=0", "--set #1: data.sources.0.limit: must be at least 1, got 0"),
    ("model.name=", "--set #1: model.name: must be text, got nothing"),
    (
        f"output_dir=runs/{'ä' * 128}/x",
        "--set #1: output_dir: a name in it is too long for a file system: 256 bytes, 255 at most",
    ),
    (f"output_dir={'x/' * 2000}", "--set #1: output_dir: is too long for a file system: 3999 bytes, 3895 at most"),
    ('output_dir="a\\0b"', "--set #1: output_dir: must be the name of a folder, and contains a NUL character"),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change[:40] for change, _ in CHANGES])
def test_broken_change(tmp_path, monkeypatch, change, expected):
    text = BASE.replace("output_dir", "seed: 3\noutput_dir")
    assert problems(tmp_path, monkeypatch, text, [change]) == [expected]


def test_changes_stand_after_lines_in_their_order(tmp_path, monkeypatch):
    found = problems(tmp_path, monkeypatch, BASE + "lr: 3\n", ["seed=-1", "chat.top_p=2"])
    assert [line.split(": ")[0] for line in found] == ["r.yaml:6", "--set #1", "--set #2"]
