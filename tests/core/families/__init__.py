"""Small random models of the families that the tests cover: real transformers classes, two layers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
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
_GROUPED = NEW | {"num_key_value_heads": 2}
_SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_THREE = NEW | {"num_hidden_layers": 3}
_LINEAR = _GROUPED | {
    "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_GPT: dict[str, Any] = IDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
# layers that keep states instead of keys and values, families without a cache, and those that count columns
STATES: dict[str, Any] = {
    "mamba": lambda: transformers.MambaConfig(**IDS, hidden_size=32, state_size=8, num_hidden_layers=2),
    "falcon-mamba": lambda: transformers.FalconMambaConfig(**IDS, hidden_size=32, state_size=8, num_hidden_layers=2),
    "mamba2": lambda: transformers.Mamba2Config(
        **IDS, hidden_size=32, num_heads=8, head_dim=8, state_size=8, n_groups=1, num_hidden_layers=2, chunk_size=8
    ),
    "jamba": lambda: transformers.JambaConfig(
        **_GROUPED | {"num_hidden_layers": 4}, num_experts=2, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False,
    ),
    "bamba": lambda: transformers.BambaConfig(**_GROUPED, **_SSM, attn_layer_indices=[1]),
    "granite-hybrid": lambda: transformers.GraniteMoeHybridConfig(
        **_GROUPED, **_SSM, layer_types=["mamba", "attention"], num_local_experts=2, num_experts_per_tok=1,
        shared_intermediate_size=32,
    ),
    "nemotron-h": lambda: transformers.NemotronHConfig(
        **_THREE, num_key_value_heads=2, head_dim=8, layers_block_type=["mamba", "attention", "mlp"],
        mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=8, n_groups=1, chunk_size=8, use_mamba_kernels=False,
    ),
    "zamba2": lambda: transformers.Zamba2Config(
        **_THREE, num_key_value_heads=4, layers_block_type=["mamba", "hybrid", "mamba"], mamba_d_state=8,
        mamba_headdim=8, n_mamba_heads=8, mamba_ngroups=1, chunk_size=8, num_mem_blocks=1, use_mamba_kernels=False,
    ),
    "falcon-h1": lambda: transformers.FalconH1Config(**_GROUPED, **_SSM, mamba_d_ssm=64),
    "qwen3-next": lambda: transformers.Qwen3NextConfig(
        **_LINEAR, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "qwen3.5": lambda: transformers.Qwen3_5TextConfig(**_LINEAR),
    "lfm2": lambda: transformers.Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention"]),
    "recurrent-gemma": lambda: transformers.RecurrentGemmaConfig(
        **{key: value for key, value in _THREE.items() if key != "max_position_embeddings"}, num_key_value_heads=1,
        lru_width=32, attention_window_size=16,
    ),
    "rwkv": lambda: transformers.RwkvConfig(
        **IDS, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64
    ),
    "gpt-1": lambda: transformers.OpenAIGPTConfig(**_GPT),
    "ctrl": lambda: transformers.CTRLConfig(**_GPT, dff=64),
    "bart": lambda: transformers.BartConfig(
        **IDS, d_model=32, decoder_layers=2, encoder_layers=2, decoder_attention_heads=4, encoder_attention_heads=4,
        decoder_ffn_dim=64, encoder_ffn_dim=64, max_position_embeddings=128,
    ),
}  # fmt: skip
_SPARSE = _GROUPED | {"num_experts_per_tok": 2}
_DEEPSEEK = NEW | {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8,
    "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
# mixtures whose experts are stacked in one parameter; some have dense layers and experts for everybody besides
EXPERTS: dict[str, Any] = {
    "mixtral": lambda: transformers.MixtralConfig(**_SPARSE, num_local_experts=4),
    "qwen2-moe": lambda: transformers.Qwen2MoeConfig(
        **_SPARSE, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=24, mlp_only_layers=[0]
    ),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        **_SPARSE, num_experts=4, moe_intermediate_size=16, head_dim=8, mlp_only_layers=[0]
    ),
    "gpt-oss": MASKED["gpt-oss"],
    "olmoe": lambda: transformers.OlmoeConfig(**_SPARSE, num_experts=4),
    "deepseek-v2": lambda: transformers.DeepseekV2Config(**_DEEPSEEK),
    "deepseek-v3": lambda: transformers.DeepseekV3Config(**_DEEPSEEK),
    "granite-moe": lambda: transformers.GraniteMoeConfig(**_SPARSE, num_local_experts=4),
    "lfm2-moe": lambda: transformers.Lfm2MoeConfig(
        **_SPARSE, num_experts=4, moe_intermediate_size=16, num_dense_layers=1, layer_types=["conv", "full_attention"]
    ),
    "llama4": lambda: transformers.Llama4TextConfig(  # transposed, and does not say so
        **_SPARSE | {"num_experts_per_tok": 1}, num_local_experts=4, intermediate_size_mlp=64, head_dim=8,
        interleave_moe_layer_step=1,
    ),
    "jamba": STATES["jamba"],
    "qwen3-next": STATES["qwen3-next"],
}  # fmt: skip
GPT_NEO = GPTNeoConfig(**IDS, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
FAMILIES = list(CONFIGS)
PADDED = ("bloom",)  # its position biases count the cells of a row
# the families that the project promises, with both shapes of OPT
SIX = [name for name in FAMILIES if name not in ("mistral", "gemma", "gemma2")]

# makes one rank use stage 1 or 2, which it replaces by 0 otherwise; and divides a small model into several buckets and
# groups, as a large one is
DIVIDED: dict[str, Any] = {"zero_optimization": {"reduce_bucket_size": 2000, "sub_group_size": 3000}}


def config(family: str) -> Any:
    return (CONFIGS | MASKED | WIDE | STATES | EXPERTS)[family]()


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
    """Draw larger weights than usual, so that a wrong attention changes the logits visibly."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15 if parameter.shape[1] <= 128 else 0.04)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)


def token_ids(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
