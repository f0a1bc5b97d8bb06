"""A small world: its facts and names, their split into training and test, and the unit of all texts, the exchange."""

__all__ = ["exchange", "facts", "names", "split"]
