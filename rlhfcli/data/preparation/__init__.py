"""From a recipe's sources to the prepared data: convert, deduplicate, split, encode, write, count.

The top room of ``data``: it may import all others.
"""

__all__ = ["overlap", "prepare"]
