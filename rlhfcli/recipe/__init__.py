"""Recipes: the schema with every default, reading with line numbers, ``--set``, and checks in plain words.

Read strictly, checked at once, written back so that they load again. May import ``files``; no torch.
"""

__all__ = ["builtin", "loader", "messages", "schema", "trust"]
