"""The base model in the package, and the script that builds it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhfcli.tiny import model_folder, test_prompts
from rlhfcli.tiny.build import main, text_hash
from rlhfcli.tiny.pretraining import TOKENS_PER_STEP, batches, learning_rate
from rlhfcli.tiny.tokenizer import train_tokenizer


@pytest.fixture(autouse=True)
def _keep_the_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_folder_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in model_folder().iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "build.json",
    } <= set(files)
    assert files["model.safetensors"] <= 8_000_000
    assert sum(files.values()) <= 8_500_000


def test_loads_without_warnings_and_has_the_quirks_of_opt() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = AutoTokenizer.from_pretrained(model_folder())
        model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    assert model.config.model_type == "opt"
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (2, 2, 1)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "</s>", "<pad>")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer("Hello")["input_ids"][0] == 2 != tokenizer("Hello")["input_ids"][-1]
    assert tokenizer("Hello", add_special_tokens=False)["input_ids"][0] != 2
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.vocab_size == len(tokenizer)


def test_tokenizer_round_trip_and_single_digits() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for text in ("Human: Hi!\n\nAssistant: Über 12 naïve 日本 👍  two  spaces", "\n\nHuman: 3 plus 10"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    ids = tokenizer("12 plus 30", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["1", "2", "Ġplus", "Ġ3", "0"]


def test_base_model_continues_text_but_holds_no_dialogue() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()
    right = total = 0
    for row in test_prompts(2, 3):
        forms = {"user": "Human: {}\n\nAssistant:", "assistant": " {}</s>\n\n"}
        turns = [forms[m["role"]].format(m["content"]) for m in row["messages"]]
        ids = tokenizer("".join(turns), return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids["input_ids"].shape[1] :]
        right += tokenizer.decode(out, skip_special_tokens=True).strip() in row["accepted"]
        total += 1
    assert right / total <= 0.2
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert "The capital of France is Paris." in said


def test_the_committed_model_has_read_the_text_of_the_committed_generator() -> None:
    card = json.loads((model_folder() / "build.json").read_text())
    assert card["text_sha256"] == text_hash(card["seed"]), "build the base model again: the generator has changed"


def test_batches_are_full_and_seeded() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    source, again = batches(tokenizer, 5), batches(tokenizer, 5)
    tokens = 0
    for _ in range(100):
        batch = next(source)
        assert batch == next(again)
        assert len(batch) * max(map(len, batch)) <= TOKENS_PER_STEP
        assert all(ids[0] == 2 and 2 not in ids[1:-1] for ids in batch)
        tokens += sum(map(len, batch))
    assert tokens / 100 > 0.85 * TOKENS_PER_STEP


def test_tokenizer_is_the_same_every_time() -> None:
    assert train_tokenizer(1).backend_tokenizer.to_str() == train_tokenizer(1).backend_tokenizer.to_str()


def test_schedule() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates.index(max(rates)) in (149, 150)
    assert rates[0] < rates[100] and rates[-1] < 1e-7


def test_build_is_deterministic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for name in ("a", "b"):
        main(["--steps", "3", "--output", str(tmp_path / name)])
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert not list(tmp_path.glob("*.new")) and not list(tmp_path.glob("*.old"))
    text = capsys.readouterr().out
    assert "3 steps × 2048 tokens = 0.0M tokens" in text and "left" in text


def test_a_folder_that_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="the folder holds something other than"):
        main(["--steps", "1", "--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
