"""The DeepSpeed engine: the only files that drive it, its state by parameter name, and offloading to files.

May import ``core.models``, ``core.tasks`` and what lies below them.
"""

__all__ = ["engine", "engine_state", "nvme_offload"]
