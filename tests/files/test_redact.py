"""Secrets do not reach run.json; everything else does."""

from __future__ import annotations

from typing import Any

import pytest

from rlhfcli.files.redact import command_line, hidden_keys, without_secrets

TOKEN = "abcDEF0123456789abcDEF"
HIDDEN = [
    (["rlhf", "sft", "--set", f"logging.wandb_key={TOKEN}"], "rlhf sft --set logging.wandb_key=***"),
    (["rlhf", "sft", "--set", f"logging={{wandb_key: {TOKEN}, every: 3}}"], "logging={wandb_key: ***, every: 3}"),
    (["rlhf", "sft", "--set", f'logging={{"api_key": "{TOKEN} x"}}'], 'logging={"api_key": ***}'),
    (["rlhf", "sft", "--set", f"hub.token={TOKEN}"], "hub.token=***"),
    (["rlhf", "sft", "--set", f"hub.PASSWORD={TOKEN}"], "hub.PASSWORD=***"),
    (["rlhf", "sft", f"--hf-token={TOKEN}"], "--hf-token=***"),
    (["rlhf", "sft", "--hf-token", TOKEN, "--offline"], "--hf-token *** --offline"),
    (["rlhf", "sft", "--set", f"model.name=hf_{TOKEN}"], "model.name=***"),
    (["rlhf", "sft", "-r", f"https://me:{TOKEN}@host/r.yaml"], "-r https://***@host/r.yaml"),
    (["rlhf", "sft", "-r", f"https://{TOKEN}@host/r.yaml"], "-r https://***@host/r.yaml"),
]


@pytest.mark.parametrize(("arguments", "shown"), HIDDEN)
def test_a_secret_is_hidden(arguments: list[str], shown: str) -> None:
    line = command_line(arguments)
    assert line.endswith(shown)
    assert TOKEN not in line and line.startswith("rlhf sft")


PLAIN = [
    "rlhf run --set sft.micro_batch_tokens=4096 --set chat.max_new_tokens=12 --overwrite",
    "rlhf sft --recipe recipes/opt125m.yaml --set data.sources=[{path: builtin:tiny/pairs, limit: 150, phase: sft}]",
    "rlhf sft --set model.name=facebook/opt-125m --set eval.prompts=monkey.jsonl --set seed=7",
    "rlhf export reward out --format deepspeed-chat --shard-size 5GB",
]


SETTINGS = [
    # what is given → what is written
    ({"path": f"hf_{TOKEN}"}, {"path": "***"}),
    ({"columns": {"prompt": f"x sk-proj-{TOKEN}"}}, {"columns": {"prompt": "x ***"}}),
    ({"a": [{"api_key": "short"}, f"ghp_{TOKEN}"]}, {"a": [{"api_key": "***"}, "***"]}),
    ({"comet": {"hub-token": "x", "password": ""}}, {"comet": {"hub-token": "***", "password": ""}}),
    ({"path": "s3://me:pass@host/rows"}, {"path": "s3://***@host/rows"}),
    ({"path": "AKIAIOSFODNN7EXAMPLE"}, {"path": "***"}),
    ({"path": f"eyJhbGciOiJIUzI1.{TOKEN}.sig"}, {"path": "***"}),
    ({"path": "-----BEGIN RSA PRIVATE KEY-----\nabc"}, {"path": "***"}),
]
HARMLESS = [
    {"path": "/data/hf_downloads_2024_full/rows.jsonl", "max_new_tokens": 12, "pad_token_id": 3, "key": None},
    {"path": "/data/sk-learn-questions-and-answers/a.jsonl", "columns": {"prompt": "question"}},
    {"name": "HuggingFaceH4/ultrafeedback_binarized", "micro_batch_tokens": 4096, "schedule": {"name": "cosine"}},
    {"path": "https://host/rows.jsonl?x=me@host", "tokenizer": "gpt2", "monkey": "see"},
]


@pytest.mark.parametrize(("given", "written"), SETTINGS)
def test_a_secret_in_settings_is_hidden_by_value_and_by_key(given: dict[str, Any], written: dict[str, Any]) -> None:
    assert without_secrets(given) == written
    assert len(list(hidden_keys(written))) == str(written).count("***")


@pytest.mark.parametrize("settings", HARMLESS)
def test_settings_without_a_secret_stay(settings: dict[str, Any]) -> None:
    assert without_secrets(settings) == settings and list(hidden_keys(settings)) == []


@pytest.mark.parametrize("line", PLAIN)
def test_what_is_no_secret_stays(line: str) -> None:
    assert command_line(line.split(" ")) == line
