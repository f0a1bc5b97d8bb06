"""Trackers that take figures besides ``metrics.jsonl``: TensorBoard and Weights & Biases.

``metrics.jsonl`` decides: after a resume it holds every line once, and a tracker is brought to the same lines before it
gets new ones. TensorBoard's file is written again from them. Lines that Weights & Biases has received cannot be
withdrawn; the number of a line says whether it was sent.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.errors import UserError
from rlhfcli.files.atomic import write_text
from rlhfcli.recipe.schema import LoggingSection

Line = dict[str, float]
_NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


class Tracker(Protocol):
    """Takes the lines of ``metrics.jsonl``, on the first rank."""

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Begin a session.

        Args:
            history: Lines of earlier sessions, up to the checkpoint.
            seconds: Duration of the training until then.
        """

    def add(self, line: Line) -> None:
        """Add a line.

        Args:
            line: Figures by name.
        """

    def end(self, *, failed: bool) -> None:
        """End the session.

        Args:
            failed: Whether an error ended it.
        """


def check(section: LoggingSection) -> None:
    """Check before anything expensive that the trackers of ``logging.to`` can be used.

    Args:
        section: The recipe's logging section.

    Raises:
        UserError: A package is not installed, or Weights & Biases has no login.
    """
    for name in section.to:
        if name in _NAMES and find_spec(name) is None:
            raise UserError(
                f"{_NAMES[name]} is asked for and not installed",
                where=f"logging.to: {name}",
                hint=f"pip install {name}, or take it out of logging.to; metrics.jsonl is always written.",
            )
    if "wandb" in section.to and _goes_online():
        with _errors_explained():
            _wandb().login()


def make_trackers(section: LoggingSection, folder: Path, run: str, config: Mapping[str, Any]) -> list[Tracker]:
    """Return the trackers that a recipe asks for; none on other ranks than the first.

    Args:
        section: The recipe's logging section.
        folder: Folder of the phase, which bears its name.
        run: Name of the run.
        config: The settings of the run, without secrets.
    """
    if rank() > 0:
        return []
    made: dict[str, Tracker] = {"tensorboard": TensorBoard(folder), "wandb": Wandb(folder, run, config)}
    return [tracker for name, tracker in made.items() if name in section.to]


class TensorBoard:
    """Scalars in ``<phase>/tensorboard``.

    Args:
        folder: Folder of the phase.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Write the lines of earlier sessions into a new file.

        Args:
            history: Lines of earlier sessions.
            seconds: Duration of the training until then.
        """
        from torch.utils.tensorboard import SummaryWriter

        for file in self._folder.glob("events.out.tfevents.*"):
            file.unlink()
        # a server that has the old file open forgets its content
        self._writer = SummaryWriter(str(self._folder), purge_step=0 if history else None)
        began, known = time.time() - seconds, 0.0
        for line in history:
            known = line.get("seconds", known)
            self._write(line, began + known)
        self._writer.flush()

    def add(self, line: Line) -> None:
        """Add a line.

        Args:
            line: Figures by name.
        """
        self._write(line, time.time())
        self._writer.flush()  # lines are rare

    def end(self, *, failed: bool) -> None:
        """Close the file.

        Args:
            failed: Makes no difference here.
        """
        self._writer.close()

    def _write(self, line: Line, at: float) -> None:
        for name, value in line.items():
            if name != "step":
                group = "eval" if name.startswith("eval_") else "train"
                self._writer.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, int(line["step"]), at)


class Wandb:
    """A run of Weights & Biases for each phase; a training that resumes continues the same run.

    Its own step is the number of a line in ``metrics.jsonl``, which never comes twice; charts show the optimizer step.

    Args:
        folder: Folder of the phase; ``wandb.json`` in it holds the id of the run and the number of lines sent.
        run: Name of the run folder.
        config: The settings of the run, without secrets; shown as the run's configuration.
    """

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        self._state = folder / "wandb.json"
        self._name, self._config = run, config
        self._run: Any = None
        self._id, self._sent, self._lines = "", 0, 0  # number of lines that the run has, and of all lines so far

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Open the run and send the lines that it lacks.

        Args:
            history: Lines of earlier sessions.
            seconds: Not needed here: the server knows the time of each line.
        """
        wandb, phase = _wandb(), self._state.parent
        self._id, self._sent = (_read(self._state) if history else None) or (secrets.token_hex(4), 0)
        with _errors_explained():
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rlhf"),
                name=f"{self._name} {phase.name}",
                job_type=phase.name,
                config=self._config,
                id=self._id,
                resume="allow",
                dir=str(phase),
                # neither the output nor the command line is uploaded: both may contain private data
                settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_meta=True),
            )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if not self._run.offline:
            self._sent = self._run.step  # the server knows what has arrived
        for line in history:
            self.add(line)

    def add(self, line: Line) -> None:
        """Add a line, unless the run has it already.

        Args:
            line: Figures by name.
        """
        if self._lines >= self._sent:
            self._run.log(line, step=self._lines, commit=True)
            self._sent = self._lines + 1
            _write(self._state, self._id, self._sent)
        self._lines += 1

    def end(self, *, failed: bool) -> None:
        """Wait until all lines have arrived, and close the run.

        Args:
            failed: Whether the run is shown as failed.
        """
        self._run.finish(exit_code=int(failed))


def _wandb() -> Any:
    """Import the package, which is no dependency of ours and may have any version."""
    import wandb

    return wandb


def _goes_online() -> bool:
    return os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")


@contextmanager
def _errors_explained() -> Iterator[None]:
    """Turn errors of Weights & Biases into ours."""
    try:
        yield
    except _wandb().Error as error:
        raise UserError(
            f"Weights & Biases: {error}",
            where="logging.to: wandb",
            hint="wandb login, or WANDB_API_KEY, lets it in; --offline writes to the run folder, for wandb sync.",
        ) from None


def _read(state: Path) -> tuple[str, int] | None:
    """Return the id of the run and the number of lines sent; ``None`` if they are not known."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        return str(found["id"]), int(found["lines"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(state: Path, run: str, lines: int) -> None:
    write_text(state, json.dumps({"id": run, "lines": lines}) + "\n")
