"""A stop that is requested in an evaluation ends it there; the next session begins with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhfcli.core.checkpoints.manager import Checkpoints
from rlhfcli.core.checkpoints.session import TrainingSession
from rlhfcli.core.checkpoints.stop import Stop
from rlhfcli.core.training import measure
from rlhfcli.errors import Interrupted
from tests.core.checkpoints.test_manager import TRAIN, lines, resumed, same
from tests.core.resume_worker import settings
from tests.core.training.test_phases import _project


class Asked(Stop):
    """Is asked to stop before a batch of an evaluation.

    Args:
        batch: Which one, counted over all evaluations but the first.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.left = batch

    def count(self) -> None:
        self.left -= 1
        self._requested = self._requested or self.left == 0


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Checkpoints.stop_requested

    def counting(self: Checkpoints) -> bool:
        if isinstance(self._session.stop, Asked):
            self._session.stop.count()
        return asked(self)

    monkeypatch.setattr(Checkpoints, "stop_requested", counting)


SMALL: dict[str, Any] = {"micro_batch_tokens": 32}  # several batches in an evaluation


def batches(folder: Path, phase: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Batches of one evaluation of a training, which is done on the way."""
    seen: list[int] = []
    sums = measure.sums

    def noted(task: Any, forward: Any, share: Any, *rest: Any) -> Any:
        seen.append(len(share.batches))
        return sums(task, forward, share, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("rlhfcli.core.training.loop.sums", noted)
        TRAIN[phase](_project(folder, reward={"init_from": "base"}, **settings(1, **SMALL)))
    assert len(seen) == 4  # before step 1, after 4 and 8, and at the end
    return seen[0]


@pytest.mark.parametrize("phase", ["sft", "reward"])
def test_an_evaluation_that_was_cut_short_is_made_again(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = batches(tmp_path / "whole", phase, monkeypatch)
    assert each >= 3
    whole = _project(tmp_path / "whole", **settings(1, **SMALL))
    for batch, step in ((1, 4), (2, 4), (each, 4), (each + 2, 8), (2 * each + 2, 11)):
        parted = _project(tmp_path / str(batch), reward={"init_from": "base"}, **settings(1, **SMALL))
        with pytest.raises(Interrupted, match=f"asked to stop after step {step} of 11, a checkpoint is written"):
            TRAIN[phase](replace(parted, session=TrainingSession(stop=Asked(batch))))
        assert max(line["step"] for line in lines(parted, phase) if "eval_loss" in line) < step
        assert not (parted.folder / phase / "final").exists()
        with pytest.raises(Interrupted, match=f"after step {step} of 11"):  # and again, when it is made again
            TRAIN[phase](replace(parted, session=TrainingSession(resume=True, stop=Asked(2))))
        assert f"resuming after step {step}: " in "\n".join(resumed(parted, phase))
        same(whole, parted, phase)


def test_the_time_is_looked_at_in_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, stop = _project(tmp_path, **settings(1, **SMALL)), Stop(1e9)
    asked = Checkpoints.stop_requested

    def late(self: Checkpoints) -> bool:
        stop._until = 0.0
        return asked(self)

    monkeypatch.setattr(Checkpoints, "stop_requested", late)
    with pytest.raises(Interrupted, match="the time is over after step 4 of 11, a checkpoint is written"):
        TRAIN["sft"](replace(project, session=TrainingSession(stop=stop)))
    assert [line["step"] for line in lines(project, "sft") if "eval_loss" in line] == [0]
