"""Conversations over several turns: the session and its reward model, its commands, and the terminal around them.

May import ``core``, ``console`` and ``data``.
"""

__all__ = ["reward_model", "session", "terminal"]
