"""The only place where the two phases differ: how examples become a batch, and a batch a loss.

``task`` is what the training loop knows of a phase, ``sft`` is phase 1, ``reward`` phase 2. May import ``core.packing``
and what lies below it.
"""

__all__ = ["reward", "sft", "task"]
