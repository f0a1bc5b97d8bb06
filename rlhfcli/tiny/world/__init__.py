"""The closed lists of a small world: facts, names, and what one exchange is."""

__all__ = ["exchange", "facts", "names", "split"]
