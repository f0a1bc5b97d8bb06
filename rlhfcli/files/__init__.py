"""Files on disk, below everything that knows what is in them.

Atomic writing, checksums, the lock of a folder, the layout of a run folder, strict YAML, and the removal of secrets
from what is written down. Imports only ``errors`` and ``words``; no torch.
"""

__all__ = ["atomic", "checksums", "folder_lock", "model_path", "redact", "run_layout", "strict_yaml"]
