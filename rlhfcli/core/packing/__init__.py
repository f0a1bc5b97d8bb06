"""From examples to batches: micro-batches that fit, a layout, and the fastest strategy that is exact for a model.

May import ``core.families`` and ``core.token_trees``.
"""

__all__ = ["last_layer", "layout", "micro_batches", "stand_in", "strategy"]
