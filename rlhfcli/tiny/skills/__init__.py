"""Skills that a model learns and is evaluated on, each with right and wrong answers.

May import ``tiny.world``.
"""

__all__ = ["closed", "instructions", "lists", "manners", "memory", "mistakes", "planner", "stories"]
