"""Encode dialogues and preferences as token ids and spans, no longer than the recipe allows; and show them as text.

``encode`` is the entry; ``fitting``, ``shorten`` and ``windows`` make long examples fit; ``preview`` decodes. May
import ``data.templates`` and ``data.dialogues``.
"""

__all__ = ["encode", "encoded", "preview"]
