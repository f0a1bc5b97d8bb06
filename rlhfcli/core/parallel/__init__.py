"""Several processes as one training: ranks, DeepSpeed's configuration and process group, and ZeRO stage 3.

Imports no other room of ``core``.
"""

__all__ = ["deepspeed_config", "extensions", "out_of_memory", "own_rank", "process_group", "ranks", "zero3"]
