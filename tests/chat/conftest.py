"""A chat with a scripted model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlhfcli.chat.reward_model import RewardModel
from rlhfcli.chat.session import ChatSession
from rlhfcli.core.generation.decode import Decoding
from rlhfcli.core.models.reward_model import RewardModel as Network
from rlhfcli.data.templates.template import HUMAN_ASSISTANT

CONTEXT = 256


def byte_tokenizer(eos: str = "</s>") -> Any:
    """One token per byte, an end token and a pad."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>")
    fast.chat_template = HUMAN_ASSISTANT
    return fast


def llama_config(**more: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=256,
        bos_token_id=None,
        pad_token_id=257,
        **more,
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def model() -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(llama_config()).eval()


@pytest.fixture(scope="session")
def scorer() -> RewardModel:
    """A random reward model with another end token than the chat model's."""
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(llama_config(num_labels=1)).eval()
    return RewardModel(Network(model), byte_tokenizer(eos="<|endoftext|>"))


@pytest.fixture
def session(model: Any, tokenizer: Any) -> ChatSession:
    return ChatSession(model, tokenizer, Decoding(max_new_tokens=20))


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Callable[..., list[list[int]]]:
    """Let the model write given texts, one per reply; return the prompts that it gets."""

    def script(*replies: str, fail: type[BaseException] | None = None) -> list[list[int]]:
        prompts: list[list[int]] = []
        left = iter(replies)

        def stream(_: Any, prompt: list[int], __: Decoding, ends: Collection[int]) -> Iterator[int]:
            prompts.append(prompt)
            for token in tokenizer.encode(next(left)):
                if token in ends:
                    return
                yield token
            if fail:
                raise fail

        monkeypatch.setattr("rlhfcli.chat.session.stream", stream)
        return prompts

    return script
