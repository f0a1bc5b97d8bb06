"""The embedded example ``builtin:tiny``: generated texts about a small world, and a base model trained on them.

The generator makes dialogues, pairs and plain text without data files or network; ``python -m rlhfcli.tiny.build``
pre-trains the base model on the plain text. Rooms: ``skills`` above ``world``. Importing this loads no torch.
"""

from __future__ import annotations

from pathlib import Path

from rlhfcli.tiny.dialogues import dialogues, test_prompts
from rlhfcli.tiny.pairs import preference_pairs
from rlhfcli.tiny.plain_text import plain_text
from rlhfcli.tiny.skills.planner import RECALL_SKILLS, SKILLS

__all__ = [
    "RECALL_SKILLS",
    "SKILLS",
    "dialogues",
    "model_folder",
    "plain_text",
    "preference_pairs",
    "test_prompts",
]


def model_folder() -> Path:
    """Return the folder of the base model that ships with the package.

    Returns:
        A transformers folder: weights, config, tokenizer and ``build.json``.
    """
    return Path(__file__).parent / "model"
