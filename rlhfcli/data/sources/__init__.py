"""The sources of a recipe as rows of known shape: files, folders, data sets of the Hub, the built-in generator.

May import ``data.shapes``, ``data.reading`` and ``data.dialogues``.
"""

__all__ = ["evaluation_rows", "shaping", "sources"]
