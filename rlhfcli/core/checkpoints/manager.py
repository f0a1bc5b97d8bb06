"""Checkpoints of a phase in progress: when they are written, which one is loaded, and what is restored from it.

``checkpoint_files`` knows the files and ``engine_state`` the tensors; this file connects them with the ranks and the
loop. The position in the data follows from the step: ``plan_steps`` returns the same order every time.

Training waits while the tensors are copied to host memory, and continues while the copy is written. If there is no
memory for a copy, it waits until everything is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhfcli.core import hardware
from rlhfcli.core.checkpoints import checkpoint_files
from rlhfcli.core.checkpoints.background import Background
from rlhfcli.core.checkpoints.best import best_by
from rlhfcli.core.checkpoints.checkpoint_files import Damaged, Progress
from rlhfcli.core.checkpoints.session import TrainingSession
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
_ROOM = 2  # a copy may take half of the free memory: some steps of the training need more than others


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
        """Progress of the training that is resumed; ``None`` if it begins."""
        return self._loaded.progress if self._loaded else None

    def load_latest(self, module: nn.Module) -> None:
        """Load the weights of the newest checkpoint into a model, if the session resumes; before the engine is made.

        Args:
            module: The model as it is before the first step.

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
        self._sink.note(f"resuming after step {self._loaded.progress.step:,}: {self._loaded.folder}")

    def _newest(self) -> checkpoint_files.Checkpoint | None:
        """Open the newest intact checkpoint that the first rank finds; other ranks open the same one, or fail."""
        found = checkpoint_files.newest(self.folder, self._sink.note) if rank() == 0 else None
        chosen = from_first((found.progress.step, found.digest) if found else None)
        if rank() == 0 or chosen is None:
            return found
        folder = run_layout.checkpoint(self.folder, chosen[0])
        try:
            found = checkpoint_files.Checkpoint(folder, verify=False)
            if found.digest != chosen[1]:
                raise Damaged("its manifest differs")
        except Damaged as damage:
            raise OutputError(
                f"rank {rank()} does not see the checkpoint that the first rank resumes: {damage}",
                where=str(folder),
                hint="Put output_dir on a disk that all machines share, and check that this one reads it correctly.",
            ) from None
        return found

    def restore(self, engine: Engine) -> None:
        """Restore optimizer, schedule and random number generators from the loaded checkpoint, if there is one.

        Args:
            engine: A new engine of the module that was given to ``load_latest``.
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
        """Let Ctrl-C and SIGTERM wait for the end of a step, or of an evaluation's batch, while this block runs.

        Raises:
            OutputError: A checkpoint could not be written; the end of the block waits for the last one.
        """
        with self._writing, self._session.stop.handling_signals(self._sink.note):
            yield

    def after_step(self, engine: Engine, progress: Progress, steps: int) -> None:
        """Start to write a checkpoint if one is due, and end the training if a stop was requested. For all ranks.

        Args:
            engine: The engine that has made the step.
            progress: Progress of the training.
            steps: Total number of steps.

        Raises:
            Interrupted: A stop was requested or the time is over; a checkpoint is written.
            OutputError: This checkpoint, or the one before it, cannot be written.
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
                f"{self._session.resume_command} continues"
            )

    def load_best(
        self, module: nn.Module, steps: int, figures: dict[str, float]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Load the weights of the best step into the model, if the recipe asks for them. For the first rank.

        Args:
            module: The model after the last step, not partitioned.
            steps: Total number of steps.
            figures: Figures of the evaluation after the last step.

        Returns:
            The figures of the model as it is now; and its ``step`` with ``by``, the criterion in words, which are left
            out if the last step is used without being known as the best.
        """
        if self._criterion is None:
            return figures, {}
        description, metric = self._criterion.description, self._criterion.metric
        if self._criterion.better(figures, self._best):
            self._sink.note(f"the last step's weights are used: they have the {description}, {figures[metric]:.4f}")
            return figures, {"step": steps, "by": description}
        if not self._best:
            return figures, {}
        step, best = int(self._best["step"]), {k: v for k, v in self._best.items() if k != "step"}
        folder = run_layout.checkpoint(self.folder, step)
        try:
            engine_state.load_weights(module, checkpoint_files.Checkpoint(folder).read)
        except Damaged as damage:
            self._sink.note(f"the best checkpoint {folder} is damaged, the last step's weights are used: {damage}")
            return figures, {}
        self._sink.note(
            f"the weights of step {step:,} of {steps:,} are used: they have the {description}, {best[metric]:.4f} "
            f"(after the last step {figures[metric]:.4f})"
        )
        return best, {"step": step, "by": description}

    def stop_requested(self) -> bool:
        """Return whether ``after_step`` will end the training, so that an evaluation need not be finished.

        All ranks have to ask, and all get the same answer.
        """
        return _any_rank(self._session.stop.wanted)

    def remove(self) -> None:
        """Remove all checkpoints: the phase is finished, or begins again."""
        if rank() == 0:
            checkpoint_files.remove_all(self.folder)

    def _due(self, step: int, steps: int) -> bool:
        every = self._section.every
        # after the last step of a long training, too: saving a large model takes long, and may fail
        return every is not None and (step % every == 0 or step == steps > every)

    def _compare(self, progress: Progress) -> None:
        """Remember a new best evaluation, if the model or the loaded checkpoint has its weights."""
        if self._criterion is None:
            return
        kept = (progress.step, self._loaded.progress.step if self._loaded else progress.step)
        if progress.figures.get("step") in kept and self._criterion.better(progress.figures, self._best):
            self._best = progress.figures

    def _save(self, engine: Engine, progress: Progress, *, beside: bool) -> None:
        """Copy the tensors and write them in the background, or write them at once if there is no memory for a copy."""
        self._writing.wait()
        meet()  # here the other ranks may wait for long
        states = _random_states()
        tensors = engine_state.tensors(engine)
        size = _size(engine.module)
        if rank() > 0:
            for _ in tensors:  # each is gathered from all ranks
                pass
        elif beside and _ROOM * size <= hardware.available_memory():
            copy = list(tensors)
            self._sink.advance(progress.step, {"checkpoint": progress.step})  # without a line: it takes no time
            self._writing.start(lambda: self._write(iter(copy), states, progress, size))
        else:
            with self._sink.stage(f"writing the checkpoint of step {progress.step:,}"):
                self._write(tensors, states, progress, size)
        self._saved = progress.step
        meet()

    def _write(
        self, tensors: Iterator[tuple[str, Tensor]], states: dict[str, Tensor], progress: Progress, size: int
    ) -> None:
        checkpoint_files.sync(self.folder.parent / run_layout.METRICS)
        checkpoint_files.save(self.folder, tensors, states, progress, self._settings, size)
        for folder in run_layout.list_checkpoints(self.folder):
            if run_layout.step_of(folder) > progress.step:  # damaged, or it would have been loaded
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
    """Return the bytes of a checkpoint's tensors; at stage 3 a parameter's full size has another name."""
    sizes = (getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in engine_state.trained(module))
    return _COPIES * _FLOAT32 * sum(sizes)


def _any_rank(wanted: bool) -> bool:
    """Return whether any rank wants something: a signal may have reached only one of them."""
    return highest([float(wanted)])[0] > 0
