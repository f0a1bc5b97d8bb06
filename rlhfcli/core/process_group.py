"""DeepSpeed is imported, and this process joins the others; alone, it is a run of one rank."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from typing import Any

import torch
import torch.distributed as dist


def import_deepspeed() -> Any:
    """Import DeepSpeed quietly, on a GPU where there is one, else on the CPU, and without its start-up build."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    if hasattr(deepspeed.ops, "__compatible_ops__"):  # a C++ build that only serves inference
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # stage 3 calls functions of torch.distributed that have newer names
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed")
    warnings.filterwarnings("ignore", category=UserWarning, message=".*[Dd]istutils")  # with which it finds libaio
    return deepspeed


def ensure_process_group() -> None:
    """Make this process a run of one rank, unless a launcher has said which rank it is."""
    deepspeed = import_deepspeed()
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(_free_port()))
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
