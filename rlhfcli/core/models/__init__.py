"""Models: loading, the language model, the reward model, LoRA, and adapters.

Begin with ``reward_model`` and ``lora``. May import ``core.packing`` and what lies below it.
"""

__all__ = [
    "adapters",
    "deepspeed_chat",
    "language_model",
    "loading",
    "lora",
    "lora_files",
    "lora_targets",
    "reward_model",
    "tokenizers",
]
