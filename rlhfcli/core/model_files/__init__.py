"""Folders of models, adapters and reward heads, before anything of them is loaded and after it is saved.

Nothing that a folder claims is believed before it is checked. Imports no other room of ``core``.
"""

__all__ = [
    "deepspeed_chat_format",
    "load_errors",
    "model_folder",
    "peft_adapters",
    "peft_format",
    "reward_heads",
    "saved_folder",
]
