"""The only place where the two phases differ: how examples become a batch, and a batch a loss.

``task`` has the interface and phase 1, ``reward`` phase 2. May import ``core.packing`` and what lies below it.
"""

__all__ = ["reward", "task"]
