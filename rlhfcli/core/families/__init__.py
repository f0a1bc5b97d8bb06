"""What differs between model families: what a config allows, dropout, embeddings, positions, continuing a text.

Most of it is tried on the model, not looked up by name. May import ``core.parallel``.
"""

__all__ = ["config_checks", "continuation", "dropout", "embeddings", "rotary"]
