"""Rows become dialogues and preferences: a reader for each row shape that people have, and a table of them.

A new shape is an entry in ``formats``. May import ``data.reading`` and ``data.dialogues``.
"""

__all__ = ["catalogue", "formats", "prompts", "row_joins"]
