"""The differences between model families: what a config allows, dropout, embeddings, positions, continuing a text.

Most of them are found by trying the model, not looked up by name. May import ``core.parallel``.
"""

__all__ = ["backbone", "config_checks", "continuation", "dropout", "embeddings", "rotary"]
