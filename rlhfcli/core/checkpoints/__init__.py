"""Checkpoints to resume from: when they are written, which one is loaded, which one was best, and when to stop.

May import ``core.engine`` and what lies below it.
"""

__all__ = ["best", "checkpoint_files", "manager", "session", "stop"]
