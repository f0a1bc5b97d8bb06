"""Where figures go besides ``metrics.jsonl``: TensorBoard and Weights & Biases, if the recipe asks for them.

``metrics.jsonl`` is the truth: after a resume it holds every line once, and a tracker is brought to the same lines
before it gets new ones. TensorBoard's file is written anew from them. Of what was sent to Weights & Biases nothing can
be taken back; there the number of a line says whether it was sent already.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rlhfcli.errors import UserError
from rlhfcli.files.atomic import write_text
from rlhfcli.files.redact import without_secrets
from rlhfcli.recipe.schema import Recipe

Line = dict[str, float]
_NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


class Tracker(Protocol):
    """Takes the lines of ``metrics.jsonl``. Only the first rank has any."""

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Training begins, or goes on after ``seconds`` of it, with these lines already written."""

    def add(self, line: Line) -> None:
        """One more line."""

    def end(self, *, failed: bool) -> None:
        """No more lines in this sitting."""


def check(recipe: Recipe) -> None:
    """Find out before anything expensive whether what ``logging.to`` asks for can be written.

    Args:
        recipe: Says what is asked for.

    Raises:
        UserError: A package is not installed, or Weights & Biases knows no account.
    """
    for name in recipe.logging.to:
        if name in _NAMES and find_spec(name) is None:
            raise UserError(
                f"{_NAMES[name]} is asked for and not installed",
                where=f"logging.to: {name}",
                hint=f"pip install {name}, or take it out of logging.to; metrics.jsonl is always written.",
            )
    if "wandb" in recipe.logging.to and _goes_online():
        with _told():
            _wandb().login()


def chosen(recipe: Recipe, folder: Path) -> list[Tracker]:
    """The trackers that a recipe asks for.

    Args:
        recipe: Its ``logging.to`` says which.
        folder: Of the phase; its name is the phase's.
    """
    made: dict[str, Tracker] = {"tensorboard": TensorBoard(folder), "wandb": Wandb(folder, recipe)}
    return [tracker for name, tracker in made.items() if name in recipe.logging.to]


class TensorBoard:
    """Scalars in ``<phase>/tensorboard``.

    Args:
        folder: Of the phase.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Write the lines that count into a new file; see ``Tracker``."""
        from torch.utils.tensorboard import SummaryWriter

        for file in self._folder.glob("events.out.tfevents.*"):
            file.unlink()
        # a server that has the old file open forgets what it has read of it
        self._writer = SummaryWriter(str(self._folder), purge_step=0 if history else None)
        began, known = time.time() - seconds, 0.0
        for line in history:
            known = line.get("seconds", known)
            self._write(line, began + known)
        self._writer.flush()

    def add(self, line: Line) -> None:
        """One more line."""
        self._write(line, time.time())
        self._writer.flush()  # there are few: one every so many steps

    def end(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, line: Line, at: float) -> None:
        for name, value in line.items():
            if name != "step":
                group = "eval" if name.startswith("eval_") else "train"
                self._writer.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, int(line["step"]), at)


class Wandb:
    """A run of Weights & Biases for each phase; goes on with the same run after a resume.

    Its own step is the number of a line in ``metrics.jsonl``, which never comes twice; charts show the optimizer step.

    Args:
        folder: Of the phase; ``wandb.json`` in it says which run, and how many lines it has.
        recipe: Is shown as the run's configuration.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._state = folder / "wandb.json"
        self._recipe = recipe
        self._run: Any = None
        self._id, self._sent, self._lines = "", 0, 0  # lines that the run has, and that there are so far

    def begin(self, history: Sequence[Line], seconds: float) -> None:
        """Open the run, and send what it has not got; see ``Tracker``."""
        wandb, phase = _wandb(), self._state.parent
        self._id, self._sent = (_read(self._state) if history else None) or (secrets.token_hex(4), 0)
        with _told():
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rlhf"),
                name=f"{Path(self._recipe.output_dir).name} {phase.name}",
                job_type=phase.name,
                config=without_secrets(self._recipe.model_dump(mode="json")),
                id=self._id,
                resume="allow",
                dir=str(phase),
                # what the terminal shows and what the command was stay here: both may hold what is nobody's business
                settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_meta=True),
            )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if not self._run.offline:
            self._sent = self._run.step  # the server knows what has arrived
        for line in history:
            self.add(line)

    def add(self, line: Line) -> None:
        """One more line, unless the run has it already."""
        if self._lines >= self._sent:
            self._run.log(line, step=self._lines, commit=True)
            self._sent = self._lines + 1
            _write(self._state, self._id, self._sent)
        self._lines += 1

    def end(self, *, failed: bool) -> None:
        """Wait until everything has arrived."""
        self._run.finish(exit_code=int(failed))


def _wandb() -> Any:
    """The package; it is not among ours, and may be of any version."""
    import wandb

    return wandb


def _goes_online() -> bool:
    return os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun")


@contextmanager
def _told() -> Iterator[None]:
    """Errors of Weights & Biases as ours."""
    try:
        yield
    except _wandb().Error as error:
        raise UserError(
            f"Weights & Biases: {error}",
            where="logging.to: wandb",
            hint="wandb login, or WANDB_API_KEY, lets it in; --offline writes to the run folder, for wandb sync.",
        ) from None


def _read(state: Path) -> tuple[str, int] | None:
    """Which run it was, and how many lines it got; ``None`` where that is not known."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        return str(found["id"]), int(found["lines"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(state: Path, run: str, lines: int) -> None:
    write_text(state, json.dumps({"id": run, "lines": lines}) + "\n")
