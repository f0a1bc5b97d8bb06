"""Results as tables, lines and pages: what people see of them.

Imports no other room of ``cli``.
"""

__all__ = ["data_page", "memory_view", "preview_view", "tables", "trained"]
