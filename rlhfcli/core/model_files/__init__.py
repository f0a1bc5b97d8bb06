"""Files of models, adapters and reward heads: checks before loading, and the last steps of saving.

Everything in a folder is checked before it is used. Imports no other room of ``core``.
"""

__all__ = [
    "deepspeed_chat_format",
    "load_errors",
    "model_folder",
    "peft_adapters",
    "peft_format",
    "reward_heads",
    "reward_metadata",
    "saved_folder",
]
