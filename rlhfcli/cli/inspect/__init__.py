"""Verbs that look at a machine, at recipes and at runs, and change nothing.

May import ``cli.shared`` and ``cli.views``.
"""

__all__ = ["doctor", "recipes", "runs"]
