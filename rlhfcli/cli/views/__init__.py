"""Results as tables and pages for people.

Imports no other room of ``cli``.
"""

__all__ = ["data_page", "memory_view", "preview_view", "report_view", "tables"]
