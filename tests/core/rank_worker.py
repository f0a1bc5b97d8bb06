"""Trains the cases of ``test_ranks`` in this process; started once per rank, so that many cases share one start.

python -m torch.distributed.run --nproc_per_node=2 -m tests.core.rank_worker FOLDER STEPS CASE CASE …
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from rlhfcli.core.parallel import own_rank, ranks
from rlhfcli.core.training import phases
from tests.core import families
from tests.core.training.test_phases import _project


def settings(case: str, steps: int, files: Path) -> dict[str, Any]:
    """Return the settings of a case such as ``llama-3-lora-tight-all-recomputed``.

    Its words are the family, the stage, ``lora`` or ``full``, and any of these. ``tight``: some rank lacks a batch;
    ``optimizer``, ``all``: what is offloaded; ``files``: everything is, to ``files``; ``cut``: small parameters are
    partitioned, too; ``recomputed``: activations are; ``dropped``: dropout, each rank its own, of a base that also
    drops layers.
    """
    family = max(
        (name for name in families.CONFIGS | families.WIDE | families.EXPERTS if case.startswith(f"{name}-")), key=len
    )
    stage, kind, *more = case.removeprefix(f"{family}-").split("-")
    rate = 2e-4 if family in families.WIDE else 3e-3  # wide ones would spread the smallest difference
    phase: dict[str, Any] = {"batch_size": 7, "epochs": 4, "max_steps": steps, "learning_rate": rate}
    phase["micro_batch_tokens"] = 16 if "tight" in more else 48
    offload: dict[str, str] = {"offload": next(iter({"optimizer", "all"} & {*more}), "none")}
    if "files" in more:
        offload = {"offload": "all", "nvme": str(files)}
    config = families.DIVIDED if "tight" in more else {}
    if "cut" in more:
        config = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    if kind == "lora":
        phase["lora"] = {"rank": 4}
    return {
        "family": family,
        "model": {"gradient_checkpointing": "recomputed" in more, "dropout": 0.2 if "dropped" in more else 0.0},
        "deepspeed": {"zero_stage": int(stage), "config": config, **offload},
        "phase": phase,
        "reward": {"pooling": "mean"} if "mean" in more else {},
        "logging": {"every": 1},
        "eval": {"every": 4},
    }


def train(folder: Path, steps: int, cases: list[str]) -> None:
    """Train both phases of each case, below ``FOLDER/CASE``."""
    for case in cases:
        if own_rank.rank() == 0:
            _project(folder / case, **settings(case, steps, folder / "files"))  # writes the base model
            if "dropped" in case:
                _drop_layers(next((folder / case).glob("base-*/config.json")))
        ranks.meet()
        project = _project(folder / case, **settings(case, steps, folder / "files"))
        phases.train_sft(project)
        ranks.meet()
        phases.train_reward(project)
        ranks.meet()


def _drop_layers(config: Path) -> None:
    """As Meta's OPT models, with a LayerDrop of its own besides."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.1, "layerdrop": 0.9}))


if __name__ == "__main__":
    warnings.simplefilter("error", category=UserWarning)
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
