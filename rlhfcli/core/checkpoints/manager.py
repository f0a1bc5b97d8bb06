"""Checkpoints of a phase in progress: when they are written, which one is taken up, and what goes back where.

``checkpoint`` knows the files, ``engine_state`` the tensors; here they meet the recipe, the ranks and the loop. Where
the data is follows from the step: ``plan_steps`` gives the same order every time.

Training waits while the tensors are copied to the host's memory, and goes on while the copy is written. Without room
for a copy it waits until everything is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhfcli.core import hardware
from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.background import Background
from rlhfcli.core.checkpoints.best import best_by
from rlhfcli.core.checkpoints.checkpoint_files import Damaged, Progress
from rlhfcli.core.checkpoints.stop import Stop
from rlhfcli.core.engine import engine_state
from rlhfcli.core.engine.engine import Engine
from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.core.parallel.ranks import from_first, gathered_from_all, highest, meet
from rlhfcli.core.tasks.task import Task
from rlhfcli.errors import Interrupted, OutputError
from rlhfcli.files import run_layout
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import CheckpointSection
from rlhfcli.runs import resumable

_COPIES = 1 + len(engine_state.MOMENTS)  # of each trained parameter, float32
_FLOAT32 = 4
_ROOM = 2  # a copy may take half of the memory that is left: training needs more in some steps than in others


@dataclass(frozen=True)
class TrainingSession:
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
    resume_command: str = "--resume"


class Checkpoints:
    """The checkpoints of one phase.

    Args:
        folder: Folder of the checkpoints.
        section: How often a checkpoint is written, how many are kept, and which is the best.
        settings: The settings that the training depends on; a checkpoint with others is refused.
        task: The task that is trained.
        session: Whether to resume, and when to stop.
        sink: Shows notes and progress.
    """

    def __init__(
        self,
        folder: Path,
        section: CheckpointSection,
        settings: Mapping[str, Any],
        task: Task,
        session: TrainingSession,
        sink: Sink,
    ) -> None:
        self.folder = folder
        self._section = section
        self._session = session
        self._sink = sink
        self._settings = dict(settings) | {resumable.FINGERPRINT: session.fingerprint}
        self._loaded: checkpoint_files.Checkpoint | None = None
        self._criterion = best_by(section, task)
        self._best: Mapping[str, float] = {}  # the best evaluation, as in ``metrics.jsonl``
        self._writing = Background()
        self._saved = 0  # the step of the newest checkpoint

    @property
    def start(self) -> Progress | None:
        """How far the training was that is taken up; ``None`` where it begins."""
        return self._loaded.progress if self._loaded else None

    def load_latest(self, module: nn.Module) -> None:
        """Find where to go on, and give the model its trained weights. Comes before the engine is made.

        Args:
            module: As it is before the first step.

        Raises:
            OutputError: The newest checkpoint does not belong to these settings, or to this model.
        """
        if not self._session.resume:
            self.remove()
            return
        self._loaded = self._newest()
        if self._loaded is None:
            self._sink.note(f"no checkpoint in {self.folder}: training begins at its first step")
            return
        self._saved = self._loaded.progress.step
        resumable.refuse_changes(self._loaded.manifest["settings"], self._settings, self._loaded.folder)
        engine_state.load_weights(module, self._read)
        self._best = self._loaded.progress.best if self._criterion else {}
        self._sink.note(f"going on after step {self._loaded.progress.step:,}: {self._loaded.folder}")

    def _newest(self) -> checkpoint_files.Checkpoint | None:
        """The newest checkpoint that the first rank finds whole; the others open that one, or fail."""
        found = checkpoint_files.newest(self.folder, self._sink.note) if rank() == 0 else None
        chosen = from_first((found.progress.step, found.digest) if found else None)
        if rank() == 0 or chosen is None:
            return found
        folder = run_layout.checkpoint(self.folder, chosen[0])
        try:
            found = checkpoint_files.Checkpoint(folder, whole=False)
            if found.digest != chosen[1]:
                raise Damaged("its manifest is another one")
        except Damaged as damage:
            raise OutputError(
                f"rank {rank()} does not see the checkpoint that the first rank resumes: {damage}",
                where=str(folder),
                hint="Put output_dir on a disk that all machines share, and see whether this one reads it right.",
            ) from None
        return found

    def restore(self, engine: Engine) -> None:
        """Give a new engine its optimizer, schedule and random numbers back.

        Args:
            engine: Of the module that was given to ``load_latest``.
        """
        if self._loaded is None:
            return
        engine_state.load_moments(engine, self._read, self._loaded.progress.step)
        for device, state in self._loaded.random_state(rank()).items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif torch.cuda.is_available():
                torch.cuda.set_rng_state(state)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """While this block runs, Ctrl-C and SIGTERM wait for the end of a step, or of a batch of an evaluation.

        Raises:
            OutputError: A checkpoint could not be written; at the end of the block all of them are.
        """
        with self._writing, self._session.stop.handling_signals(self._sink.note):
            yield

    def after_step(self, engine: Engine, progress: Progress, steps: int) -> None:
        """Begin to write a checkpoint if one is due, and end the training if it is to end. All ranks come here.

        Args:
            engine: Has made the step.
            progress: How far the training is.
            steps: Steps in all.

        Raises:
            Interrupted: The training was asked to end, or its time is over; a checkpoint is written.
            OutputError: A checkpoint cannot be written, or the one before could not.
        """
        self._writing.check()
        reason = self._session.stop.reason
        stops = _any_rank(reason is not None)
        self._compare(progress)
        wanted = stops or self._due(progress.step, steps) or self._best.get("step") == progress.step
        if wanted and progress.step != self._saved:
            self._save(engine, replace(progress, best=dict(self._best)), beside=not stops)
        if stops:
            self._writing.wait()
            raise Interrupted(
                f"{reason or 'asked to stop'} after step {progress.step:,} of {steps:,}, a checkpoint is written; "
                f"{self._session.resume_command} goes on"
            )

    def load_best(
        self, module: nn.Module, steps: int, figures: dict[str, float]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Give the model the weights of the best step, where the recipe asks for them. For the first rank.

        Args:
            module: Whole, and as it is after the last step.
            steps: Steps in all.
            figures: What the evaluation after the last step found.

        Returns:
            The figures of the model as it is now; and its ``step``, and ``by``, what it is the best in. The latter is
            empty where the last step was taken without being the best.
        """
        if self._criterion is None:
            return figures, {}
        words, figure = self._criterion.description, self._criterion.metric
        if self._criterion.better(figures, self._best):
            self._sink.note(f"the last step's weights are taken: they have the {words}, {figures[figure]:.4f}")
            return figures, {"step": steps, "by": words}
        if not self._best:
            return figures, {}
        step, best = int(self._best["step"]), {k: v for k, v in self._best.items() if k != "step"}
        folder = run_layout.checkpoint(self.folder, step)
        try:
            engine_state.load_weights(module, checkpoint_files.Checkpoint(folder).read)
        except Damaged as damage:
            self._sink.note(f"the best checkpoint {folder} is damaged, the last step's weights are taken: {damage}")
            return figures, {}
        self._sink.note(
            f"the weights of step {step:,} of {steps:,} are taken: they have the {words}, {best[figure]:.4f} "
            f"(after the last step {figures[figure]:.4f})"
        )
        return best, {"step": step, "by": words}

    def stop_requested(self) -> bool:
        """Return whether ``after_step`` will end the training, so that an evaluation need not be finished.

        All ranks have to ask, and all get the same answer.
        """
        return _any_rank(self._session.stop.wanted)

    def remove(self) -> None:
        """Take all of them away: the phase is finished, or begins again."""
        if rank() == 0:
            checkpoint_files.remove_all(self.folder)

    def _due(self, step: int, steps: int) -> bool:
        every = self._section.every
        # after the last step of a long training, too: what follows may fail, and takes long with a large model
        return every is not None and (step % every == 0 or step == steps > every)

    def _compare(self, progress: Progress) -> None:
        """Remember an evaluation that is better than all before, if its weights are here or in the one taken up."""
        if self._criterion is None:
            return
        kept = (progress.step, self._loaded.progress.step if self._loaded else progress.step)
        if progress.figures.get("step") in kept and self._criterion.better(progress.figures, self._best):
            self._best = progress.figures

    def _save(self, engine: Engine, progress: Progress, *, beside: bool) -> None:
        """Copy the tensors, then write them beside the training; or write at once what may not or cannot be copied."""
        self._writing.wait()
        meet()  # the others wait here, where they have the time
        states = _random_states()
        tensors = engine_state.tensors(engine)
        size = _size(engine.module)
        if rank() > 0:
            for _ in tensors:  # each is put together by all ranks
                pass
        elif beside and _ROOM * size <= hardware.available_memory():
            copy = list(tensors)
            self._sink.advance(progress.step, {"checkpoint": progress.step})  # no line of its own: it takes no time
            self._writing.start(lambda: self._write(iter(copy), states, progress, size))
        else:
            with self._sink.stage(f"writing the checkpoint of step {progress.step:,}"):
                self._write(tensors, states, progress, size)
        self._saved = progress.step
        meet()

    def _write(
        self, tensors: Iterator[tuple[str, Tensor]], states: dict[str, Tensor], progress: Progress, size: int
    ) -> None:
        _reach_disk(self.folder.parent / run_layout.METRICS)
        checkpoint_files.save(self.folder, tensors, states, progress, self._settings, size)
        for folder in run_layout.list_checkpoints(self.folder):
            if run_layout.step_of(folder) > progress.step:  # damaged, or it would have been taken up
                shutil.rmtree(folder, ignore_errors=True)
        best = progress.best.get("step")
        checkpoint_files.prune(self.folder, self._section.keep, None if best is None else int(best))

    def _read(self, key: str) -> Tensor:
        assert self._loaded is not None
        try:
            return self._loaded.read(key)
        except Damaged as damage:
            raise OutputError(
                f"the checkpoint belongs to another model: {damage}",
                where=str(self._loaded.folder),
                hint="Was another version of transformers installed? --overwrite begins again.",
            ) from None


def _random_states() -> dict[str, Tensor]:
    """Return the states of all ranks' random number generators, on every rank."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    found: dict[str, Tensor] = {}
    for name, state in own.items():
        found |= {f"{number}:{name}": each for number, each in enumerate(gathered_from_all(state))}
    return found


def _size(module: nn.Module) -> int:
    """Bytes of a checkpoint's tensors; stage 3 knows the whole size of a parameter by another name."""
    sizes = (getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in engine_state.trained(module))
    return _COPIES * _FLOAT32 * sum(sizes)


def _any_rank(wanted: bool) -> bool:
    """Return whether any rank wants something: a signal may have reached only one of them."""
    return highest([float(wanted)])[0] > 0


def _reach_disk(file: Path) -> None:
    """Wait until a file has reached the disk: the checkpoint counts on its lines."""
    with file.open("rb") as content:
        os.fsync(content.fileno())
