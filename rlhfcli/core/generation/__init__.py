"""Text from a model: greedy and sampled decoding, streaming, and the token at which a score is read.

May import ``core.models`` and what lies below it.
"""

__all__ = ["decode", "score_position", "text_stream"]
