"""Published benchmarks of reward models by their own rules, from local files: one file each has reader and rule.

``base`` is what every benchmark is, ``figures`` what every rule returns, ``registry`` the table of all and how a file
is recognised. No torch: scores come in as numbers. May import ``data`` and ``evaluation.intervals``.
"""

__all__ = ["registry"]
