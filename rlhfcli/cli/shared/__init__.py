"""What the verbs share: options, ranks, dry runs, and the commands to type next.

May import ``cli.views``.
"""

__all__ = ["commands", "options", "rank_options", "training_options", "usage"]
