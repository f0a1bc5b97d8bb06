"""How much memory and time a training takes: estimated without training, and measured with it.

The top room of ``core``: it may import all others.
"""

__all__ = ["bench", "dry_run"]
