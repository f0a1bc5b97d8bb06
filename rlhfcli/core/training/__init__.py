"""The training loop, which knows neither phase, and the two phases from start to end.

May import every room of ``core`` but ``core.capacity``.
"""

__all__ = ["loop", "measure", "parts", "phases", "step_plan", "trackers"]
