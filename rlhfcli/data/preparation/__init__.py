"""Prepare the data of a recipe: convert its rows, deduplicate, split, encode, write and count them.

``prepare`` decides whether the prepared data is up to date, and ``pipeline`` makes it; ``overlap`` finds evaluation
prompts in the training data. The top room of ``data``: it may import all others.
"""

__all__ = ["overlap", "prepare"]
