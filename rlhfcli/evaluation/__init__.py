"""Evaluation of trained models: perplexity, exact match, ranking accuracy, baselines, benchmarks, and tables of results.

Returns plain data. May import ``core`` and below.
"""

__all__ = ["intervals", "tables", "trained_models"]
