"""Chat templates: how turns become text, and text becomes tokens, with the span of every part known.

May import ``data.dialogues``.
"""

__all__ = ["scored_template", "segments", "template", "tokens"]
