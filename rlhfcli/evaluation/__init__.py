"""Evaluation of trained models: perplexity, exact match, ranking accuracy, baselines, and tables of the results.

Returns plain data. May import ``core`` and below.
"""

__all__ = ["tables", "trained_models"]
