"""A small byte-level tokenizer with the special tokens of many families, and ways to write data files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlhfcli.data.templates.template import set_template
from rlhfcli.progress import Silent
from rlhfcli.recipe.schema import Recipe

SPECIAL = ["<s>", "<pad>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
           "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]",
           "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"]  # fmt: skip
TEXTS = [
    "Human: What is the capital of France?\n\nAssistant: The capital of France is Paris.",
    "I don't know, but the answer may be in the book on the table. Thank you very much!",
    "user assistant system model question answer red blue green one two three four five six seven",
    "東京は日本の首都です。北京是中国的首都。",
] * 4


@pytest.fixture(scope="session")
def core_json() -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return core.to_str()


@pytest.fixture
def make_tokenizer(core_json: str) -> Callable[..., PreTrainedTokenizerFast]:
    def make(bos: str | None = None, eos: str = "</s>") -> PreTrainedTokenizerFast:
        core = Tokenizer.from_str(core_json)
        if bos is not None:
            core.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
            )
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token="<pad>")

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """OPT's quirks: BOS and EOS are both ``</s>``, and BOS stands in front of every text."""
    found = make_tokenizer(bos="</s>")
    set_template(found, "human_assistant")
    return found


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(*sources: str | Path | dict[str, Any], seed: int = 1, **data: Any) -> Recipe:
        entries = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
        section = {"sources": entries, "validation": 0.3, **data}
        values = {"output_dir": "runs/x", "seed": seed, "model": {"name": "builtin:tiny"}, "data": section}
        return Recipe.model_validate(values)

    return make


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def pair(number: int, **more: Any) -> dict[str, Any]:
    """A preference row of its own prompt."""
    return {"prompt": f"question {number}?", "chosen": f"answer {number}", "rejected": "I don't know", **more}
