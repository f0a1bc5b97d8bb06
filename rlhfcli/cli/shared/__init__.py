"""What the verbs share: options, ranks, and the steps of their work.

May import ``cli.views``.
"""

__all__ = ["measuring", "options", "rank_options", "training_options", "typed", "usage", "work"]
