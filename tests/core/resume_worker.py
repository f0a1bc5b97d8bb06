"""One session of a training, for ``test_manager``; started once per rank.

python -m torch.distributed.run --nproc_per_node=2 -m tests.core.resume_worker FOLDER STAGE STEPS [OFFLOAD [BEST_BY]]
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.checkpoints.stop import Stop
from rlhfcli.core.parallel import own_rank, ranks
from rlhfcli.core.training import phases
from rlhfcli.errors import Interrupted
from tests.core.families import DIVIDED
from tests.core.training.test_phases import _project


class After(Stop):
    """Requests a stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def reason(self) -> str | None:
        self.left -= 1
        return "asked to stop" if self.left <= 0 else None


def settings(stage: int, offload: str = "none", **phase: Any) -> dict[str, Any]:
    phase = {"epochs": 3, "max_steps": 11} | phase
    deepspeed = {"zero_stage": stage, "offload": offload, "config": DIVIDED}
    return {"phase": phase, "deepspeed": deepspeed, "logging": {"every": 3}, "eval": {"every": 4}}


def train(folder: Path, stage: int, steps: int, offload: str = "none", best_by: str | None = None) -> None:
    """Train both phases, each for a number of steps from its newest checkpoint, whatever layout has written it."""
    changes = settings(stage, offload) | {"checkpoint": {"best_by": best_by}}
    if own_rank.rank() == 0:
        _project(folder, **changes)  # writes the base model
    ranks.meet()
    for phase in (phases.train_sft, phases.train_reward):
        project = _project(folder, reward={"init_from": "base"}, **changes)
        with suppress(Interrupted):
            phase(replace(project, session=TrainingSession(resume=True, stop=After(steps))))
        ranks.meet()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
