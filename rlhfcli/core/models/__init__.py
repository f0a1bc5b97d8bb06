"""Models: the language model, the reward model, LoRA; loading them from any format, with their tokenizers.

Begin with ``reward_model`` and ``lora``. May import ``core.packing`` and what lies below it.
"""

__all__ = [
    "any_format",
    "deepspeed_chat",
    "language_model",
    "loading",
    "lora",
    "lora_files",
    "lora_targets",
    "reward_model",
    "tokenizers",
]
