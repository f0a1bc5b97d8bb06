"""Saved folders for the tests: small random models with a tokenizer, as training leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import PreTrainedTokenizerFast

from rlhfcli.core.models import lora
from rlhfcli.core.models.reward_model import as_reward_model
from rlhfcli.core.publish.saving import Adapter, save_model
from rlhfcli.data.templates.template import HUMAN_ASSISTANT
from rlhfcli.recipe.schema import LoraSection
from tests.core import families

SETTINGS = LoraSection(rank=4, alpha=8.0)


def tokenizer() -> Any:
    """One token per word, as many as the families' models know."""
    words = {"<unk>": 0, "<pad>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, families.VOCABULARY)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    made.chat_template = HUMAN_ASSISTANT
    return made


CHATML = (
    "{% for message in messages %}{{ '<|im_start|> ' + message['role'] + ' ' + message['content'] + ' <|im_end|> w5' }}"
    "{% if not loop.last %}{{ ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <|im_start|> assistant ' }}{% endif %}"
)


def chatml() -> Any:
    """The same with two tokens around each turn, and a word behind the second one, where ChatML has a line break."""
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made


def adapted(model: Any, seed: int = 1) -> Any:
    """As if LoRA had been trained: B is no longer zero, and the head is a new one."""
    lora.inject(model, SETTINGS)
    torch.manual_seed(seed)
    for _, layer in lora.adapted_layers(model):
        nn.init.normal_(layer.lora_b, std=0.05)
    if isinstance(getattr(model, "score", None), nn.Linear):
        nn.init.normal_(model.score.weight)
    return model


def save(family: str, folder: Path, *, reward: bool, shard_size: str = "5GB") -> tuple[Path, Path]:
    """A trained model in ``final``, with its adapter, and its base model in ``base``."""
    base, final = folder / "base", folder / "final"
    model = families.causal_lm(family)
    save_model(model, tokenizer(), base, None, "")
    trained = adapted(families.classifier(family, seed=0) if reward else families.causal_lm(family))
    if reward:  # on the very body that was saved
        body = getattr(trained, trained.base_model_prefix)
        plain = dict(getattr(model, model.base_model_prefix).named_parameters())
        with torch.no_grad():
            for name, parameter in body.named_parameters():
                if "lora_" not in name:
                    parameter.copy_(plain[name.replace(".base.", ".")])
        as_reward_model(trained.config, "last", (0.25, 1.5))
    kind = "SEQ_CLS" if reward else "CAUSAL_LM"
    trained.config.pad_token_id = 1
    save_model(trained, tokenizer(), final, Adapter(SETTINGS, str(base), kind), "", shard_size)
    return final, base
