"""One file per verb that works on a run: its options, one call of the API, and how the result is shown.

May import ``cli.shared`` and ``cli.views``; torch is imported only once a verb runs.
"""

__all__ = ["bench", "chat", "eval", "export", "prepare_data", "reward", "run", "sft"]
