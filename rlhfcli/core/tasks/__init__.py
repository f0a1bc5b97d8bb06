"""The only place where the two phases differ: how examples become a batch, and a batch a loss.

``task`` is the interface that the training loop uses, ``sft`` is phase 1, ``reward`` phase 2. May import
``core.packing`` and the rooms below it.
"""

__all__ = ["reward", "sft", "task"]
