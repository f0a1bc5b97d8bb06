"""Convert rows into dialogues and preferences: a reader for each row shape, and tables of shapes and data sets.

A new shape is an entry in ``formats``, a data set known by its name one in ``catalogue``. May import ``data.reading``
and ``data.dialogues``.
"""

__all__ = ["catalogue", "formats", "prompts", "row_joins"]
