"""Folders for other programs: saving, model cards, export, and the check that others compute the same numbers.

May import ``core.generation`` and what lies below it.
"""

__all__ = ["card_code", "exporter", "model_card", "saving"]
