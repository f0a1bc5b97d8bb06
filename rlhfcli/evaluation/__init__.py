"""Evaluation of trained models: perplexity, exact match, ranking accuracy, baselines, benchmarks, and result tables.

Returns plain data. May import ``core`` and below.
"""

__all__ = ["intervals", "tables", "trained_models"]
