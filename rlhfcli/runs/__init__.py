"""Run folders: which one a command works in, what is in it, what it was made from, and whether it can be resumed.

May import ``recipe`` and ``files``; no torch.
"""

__all__ = ["commands", "opening", "ownership", "provenance", "recent", "resumable", "run_folder", "settings"]
