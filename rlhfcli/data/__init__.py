"""Rows become dialogues and preferences, and these become token ids. Nothing here imports torch.

From bottom to top: ``dialogues``, then ``reading`` and ``templates``, ``shapes`` and ``encoding``, ``sources`` and
``store``, and ``preparation``, which puts them together. May import ``runs``, ``recipe``, ``files`` and ``tiny``.
"""
