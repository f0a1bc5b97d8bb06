"""The objects that rows of data become: turns, dialogues and preferences; and how their messages and texts are read.

``dialogue`` defines them, ``message`` and ``turns`` read them from the values of a row, ``columns`` finds such a value
by its path, ``side_columns`` and ``column_use`` see to the columns beside the texts. The lowest room of ``data``: it
imports no other.
"""

__all__ = ["column_use", "columns", "dialogue", "message", "side_columns", "turns"]
