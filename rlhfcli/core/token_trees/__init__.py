"""Token trees: sequences that begin alike share their beginning, so that every token is computed once.

``forest`` builds them, ``attention_plan`` records which token sees which, and the others compute attention by that
plan. Imports no other room.
"""

__all__ = ["attention_plan", "forest", "tree_attention", "tree_attention_flex", "tree_mask"]
