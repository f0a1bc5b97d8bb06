"""The prepared data on disk: Arrow files, their manifest, which split a row is in, and every count.

May import ``data.encoding`` and ``data.dialogues``.
"""

__all__ = ["counts", "manifest", "prepared", "split", "statistics", "unsealed"]
