"""Verbs that inspect the machine, recipes and runs, and change nothing.

May import ``cli.shared`` and ``cli.views``.
"""

__all__ = ["doctor", "recipes", "runs"]
