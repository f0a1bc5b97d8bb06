"""What a row of data is once it is understood: turns, dialogues, preferences; and which columns that took.

The lowest room of ``data``: it imports no other.
"""

__all__ = ["column_use", "columns", "dialogue", "message", "side_columns", "turns"]
