"""Dialogues and preferences become token ids and spans, no longer than the recipe allows.

May import ``data.templates`` and ``data.dialogues``.
"""

__all__ = ["encode", "encoded", "preview"]
