"""One file per verb that works on a run: options, one call, and what to show of the result.

May import ``cli.shared`` and ``cli.views``; torch is imported only once a verb runs.
"""

__all__ = ["bench", "chat", "eval", "export", "prepare_data", "reward", "run", "sft"]
