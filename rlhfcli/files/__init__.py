"""Files on disk, below everything that knows what is in them.

Writing that is complete or absent, checksums, the lock of a folder, strict YAML, and taking secrets out of what is
written down. Imports only ``errors`` and ``words``; no torch.
"""

__all__ = ["atomic", "checksums", "folder_lock", "model_place", "redact", "strict_yaml"]
