"""Skills to learn and to measure, each with right answers and wrong ones.

May import ``tiny.world``.
"""

__all__ = ["closed", "instructions", "lists", "manners", "memory", "mistakes", "planner", "stories"]
