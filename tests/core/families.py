"""Small random models of the families that the tests go through: real transformers classes, two layers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3Config,
    StableLmConfig,
)

VOCABULARY = 128
IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}
NEW: dict[str, Any] = IDS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
OPT: dict[str, Any] = IDS | {
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "dropout": 0.0,
}
CONFIGS: dict[str, Any] = {
    "opt": lambda: OPTConfig(**OPT, word_embed_proj_dim=32),
    "opt-350m": lambda: OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "llama": lambda: LlamaConfig(**NEW, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**NEW, num_key_value_heads=2, head_dim=8),
    "gpt-neox": lambda: GPTNeoXConfig(**NEW),
    "gpt2": lambda: GPT2Config(
        **IDS, n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    ),
    "bloom": lambda: BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0, attention_dropout=0),
    "gemma": lambda: GemmaConfig(**NEW, num_key_value_heads=1, head_dim=8),
    "gemma2": lambda: Gemma2Config(
        **NEW, num_key_value_heads=2, head_dim=8, sliding_window=6, attn_logit_softcapping=2.0
    ),
    "mistral": lambda: MistralConfig(**NEW, num_key_value_heads=2, sliding_window=6),
}
# families that take the forest as a mask; their windows and rotations are as large as those of real models
MASKED: dict[str, Any] = {
    "gptj": lambda: GPTJConfig(
        **IDS, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    ),
    "falcon": lambda: FalconConfig(
        **IDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0, attention_dropout=0
    ),
    "stablelm": lambda: StableLmConfig(**NEW, num_key_value_heads=2),
    "gpt-oss": lambda: GptOssConfig(
        **NEW, num_key_value_heads=2, head_dim=8, sliding_window=6, num_local_experts=4, num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
}  # fmt: skip
# with tensors that are worth a file each, also when two ranks cut them up
_WIDE = {"hidden_size": 512, "num_attention_heads": 4}
WIDE: dict[str, Any] = {
    "opt-wide": lambda: OPTConfig(**OPT | _WIDE | {"ffn_dim": 1024}, word_embed_proj_dim=512),
    "llama-wide": lambda: LlamaConfig(**NEW | _WIDE | {"intermediate_size": 1024}, num_key_value_heads=2),
}
GPT_NEO = GPTNeoConfig(**IDS, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
FAMILIES = list(CONFIGS)
PADDED = ("bloom",)  # its position biases count the cells of a row
SIX = [
    name for name in FAMILIES if name not in ("mistral", "gemma", "gemma2")
]  # those of the project's promise, with both shapes of OPT

# one rank takes stage 0 instead of 1 or 2, unless it is told how these are to be done; as a large model does, a small
# one then has several buckets and groups
DIVIDED: dict[str, Any] = {"zero_optimization": {"reduce_bucket_size": 2000, "sub_group_size": 3000}}


def config(family: str) -> Any:
    return (CONFIGS | MASKED | WIDE)[family]()


def causal_lm(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family), dtype=torch.float32).eval()
    _spread(model)
    return model


def classifier(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    chosen = config(family)
    chosen.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(chosen, dtype=torch.float32).eval()
    _spread(model)
    return model


def _spread(model: Any) -> None:
    """Larger weights than the usual start, so that a wrong attention shows in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15 if parameter.shape[1] <= 128 else 0.04)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)


def token_ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
