"""Checkpoints of a phase in progress: when they are written, which one is taken up, and what goes back where.

``checkpoint`` knows the files, ``engine_state`` the tensors; here they meet the recipe, the ranks and the loop. Where
the data is follows from the step: ``plan_steps`` gives the same order every time.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhfcli.core import checkpoint, engine_state
from rlhfcli.core.checkpoint import Damaged, Progress
from rlhfcli.core.engine import Engine
from rlhfcli.core.ranks import highest, meet, rank, world_size
from rlhfcli.core.stop import Stop
from rlhfcli.errors import Interrupted, OutputError
from rlhfcli.progress import Sink
from rlhfcli.recipe import unfinished
from rlhfcli.recipe.schema import Recipe

_COPIES = 1 + len(engine_state.MOMENTS)  # of each trained parameter, float32
_FLOAT32 = 4


@dataclass(frozen=True)
class Sitting:
    """One command's part of a training.

    Args:
        resume: Go on from the newest checkpoint.
        fingerprint: Of the prepared data.
        stop: Says when to end early.
        go_on: What to type to go on.
    """

    resume: bool = False
    fingerprint: str = ""
    stop: Stop = field(default_factory=Stop)
    go_on: str = "--resume"


class Checkpoints:
    """The checkpoints of one phase.

    Args:
        folder: Of the run.
        recipe: How often, how many, and the settings that must be the same.
        phase: ``sft`` or ``reward``.
        sitting: Whether to go on, and when to stop.
        sink: Is told what happens.
    """

    def __init__(self, folder: Path, recipe: Recipe, phase: str, sitting: Sitting, sink: Sink) -> None:
        self.folder = folder / phase / "checkpoints"
        self._plan = recipe.checkpoint
        self._sitting = sitting
        self._sink = sink
        self._settings = unfinished.settings(recipe, phase) | {unfinished.FINGERPRINT: sitting.fingerprint}
        self._taken: checkpoint.Checkpoint | None = None
        self._saved = 0  # the step of the newest checkpoint

    @property
    def start(self) -> Progress | None:
        """How far the training was that is taken up; ``None`` where it begins."""
        return self._taken.progress if self._taken else None

    def take_up(self, module: nn.Module) -> None:
        """Find where to go on, and give the model its trained weights. Comes before the engine is made.

        Args:
            module: As it is before the first step.

        Raises:
            OutputError: The newest checkpoint does not belong to these settings, or to this model.
        """
        if not self._sitting.resume:
            self.remove()
            return
        self._taken = checkpoint.newest(self.folder, self._sink.note)
        if self._taken is None:
            self._sink.note(f"no checkpoint in {self.folder}: training begins at its first step")
            return
        self._saved = self._taken.progress.step
        unfinished.refuse_changes(self._taken.manifest["settings"], self._settings, self._taken.folder)
        engine_state.load_weights(module, self._read)
        self._sink.note(f"going on after step {self._taken.progress.step:,}: {self._taken.folder}")

    def restore(self, engine: Engine) -> None:
        """Give a new engine its optimizer, schedule and random numbers back.

        Args:
            engine: Of the module that was given to ``take_up``.
        """
        if self._taken is None:
            return
        engine_state.load_moments(engine, self._read, self._taken.progress.step)
        for device, state in self._taken.random_state(rank()).items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif torch.cuda.is_available():
                torch.cuda.set_rng_state(state)

    def listening(self) -> AbstractContextManager[None]:
        """While this block runs, Ctrl-C and SIGTERM wait for the end of a step, or of a batch of an evaluation."""
        return self._sitting.stop.listening()

    def after_step(self, engine: Engine, progress: Progress, steps: int) -> None:
        """Write a checkpoint if one is due, and end the training here if it is to end. All ranks come here.

        Args:
            engine: Has made the step.
            progress: How far the training is.
            steps: Steps in all.

        Raises:
            Interrupted: The training was asked to end, or its time is over; a checkpoint is written.
            OutputError: A checkpoint cannot be written.
        """
        reason = self._sitting.stop.reason
        stops = _any_rank(reason is not None, engine.device)
        if (stops or self._due(progress.step, steps)) and progress.step != self._saved:
            self._save(engine, progress)
        if stops:
            raise Interrupted(
                f"{reason or 'asked to stop'} after step {progress.step:,} of {steps:,}, a checkpoint is written; "
                f"{self._sitting.go_on} goes on"
            )

    def ends(self, engine: Engine) -> bool:
        """Whether the rest of an evaluation is to be left out, because ``after_step`` will end the training anyway.

        Args:
            engine: Says where the ranks exchange numbers; all of them come here.
        """
        return _any_rank(self._sitting.stop.wanted, engine.device)

    def remove(self) -> None:
        """Take all of them away: the phase is finished, or begins again."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _due(self, step: int, steps: int) -> bool:
        every = self._plan.every
        # after the last step of a long training, too: what follows may fail, and takes long with a large model
        return every is not None and (step % every == 0 or step == steps > every)

    def _save(self, engine: Engine, progress: Progress) -> None:
        states = _random_states(engine.device)
        tensors = engine_state.tensors(engine)
        if rank() == 0:
            with self._sink.stage(f"writing the checkpoint of step {progress.step:,}"):
                _reach_disk(self.folder.parent / "metrics.jsonl")
                checkpoint.save(self.folder, tensors, states, progress, self._settings, _size(engine.module))
                self._tidy(progress.step)
        else:
            for _ in tensors:  # each is put together by all ranks
                pass
        self._saved = progress.step
        meet()

    def _tidy(self, step: int) -> None:
        for folder in unfinished.checkpoints(self.folder):
            if unfinished.step_of(folder) > step:  # damaged, or it would have been taken up
                shutil.rmtree(folder, ignore_errors=True)
        checkpoint.prune(self.folder, self._plan.keep)

    def _read(self, key: str) -> Tensor:
        assert self._taken is not None
        try:
            return self._taken.read(key)
        except Damaged as damage:
            raise OutputError(
                f"the checkpoint belongs to another model: {damage}",
                where=str(self._taken.folder),
                hint="Was another version of transformers installed? --overwrite begins again.",
            ) from None


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of every rank's random numbers, on all ranks."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    found: dict[str, Tensor] = {}
    for name, state in own.items():
        states = [state]
        if world_size() > 1:
            states = [torch.empty_like(state, device=device) for _ in range(world_size())]
            dist.all_gather(states, state.to(device))
        found |= {f"{number}:{name}": each.cpu() for number, each in enumerate(states)}
    return found


def _size(module: nn.Module) -> int:
    """Bytes of a checkpoint's tensors; stage 3 knows the whole size of a parameter by another name."""
    sizes = (getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in engine_state.trained(module))
    return _COPIES * _FLOAT32 * sum(sizes)


def _any_rank(wanted: bool, device: torch.device) -> bool:
    """Whether one of the ranks wants something: a signal may have reached only one of them."""
    return highest([float(wanted)], device)[0] > 0


def _reach_disk(file: Path) -> None:
    """Wait until a file has reached the disk: the checkpoint counts on its lines."""
    with file.open("rb") as content:
        os.fsync(content.fileno())
