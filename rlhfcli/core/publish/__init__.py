"""Folders for others: saving, model cards, and the proof that other programs compute the same numbers.

May import ``core.generation`` and what lies below it.
"""

__all__ = ["exporter", "model_card", "saving"]
