"""Options of the methods of ``Project``, checked before anything is read or written."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from rlhfcli.errors import UserError
from rlhfcli.progress import Silent, Sink

if TYPE_CHECKING:
    from rlhfcli.core.checkpoints.session import TrainingSession
    from rlhfcli.core.publish.card_code import Form

Progress = Sink | Literal["silent", "terminal", "notebook"]
_SIZE = re.compile(r"[1-9][0-9]*(?:MB|GB|MiB|GiB)")


@dataclass(frozen=True)
class Caller:
    """The command that uses the API, where it is one.

    Args:
        command: Its words. They are noted in ``run.json`` and shown to other commands that find the run locked; left
            out, the Python call is.
        launch_options: Options that the command to resume a training needs again, such as ``" --gpus 2"``.
    """

    command: tuple[str, ...] = ()
    launch_options: str = ""


@dataclass(frozen=True)
class TrainingOptions:
    """How a training begins and when it ends.

    Args:
        resume: Continue from the newest checkpoint.
        overwrite: Start again and replace what is there.
        deadline: When to stop with a checkpoint, by the monotonic clock; ``None``: after the last step.
    """

    resume: bool = False
    overwrite: bool = False
    deadline: float | None = None

    @classmethod
    def checked(cls, *, resume: bool, overwrite: bool, max_time: float | None) -> TrainingOptions:
        """Check options against each other; the time runs from now.

        Args:
            resume: Continue from the newest checkpoint.
            overwrite: Start again and replace what is there.
            max_time: Seconds until the training stops with a checkpoint; ``None``: no limit.

        Raises:
            UserError: They exclude each other, or the time is not a number.
        """
        if resume and overwrite:
            raise UserError(
                "--resume and --overwrite exclude each other", hint="--resume continues, --overwrite starts again."
            )
        if not isinstance(max_time, int | float | None):
            raise UserError(f"max_time is a number of seconds, not {max_time!r}")
        return cls(resume, overwrite, None if max_time is None else time.monotonic() + max_time)

    @property
    def max_time(self) -> float | None:
        """Seconds that are left until the deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def session(self, fingerprint: str, resume_command: str) -> TrainingSession:
        """Return the session of a training with these options.

        Args:
            fingerprint: Of the prepared data.
            resume_command: Command that resumes the training.
        """
        from rlhfcli.core.checkpoints.session import TrainingSession
        from rlhfcli.core.checkpoints.stop import Stop

        return TrainingSession(self.resume, fingerprint, Stop(self.max_time), resume_command)


@dataclass(frozen=True)
class ExportOptions:
    """What an export looks like.

    Args:
        form: ``merged``, the whole model; ``adapter``, that of LoRA alone; ``deepspeed-chat``, DeepSpeed-Chat's keys.
        shard_size: Largest file of weights, such as ``500MB``.
        label: Which output is the reward, for a reward model that has several.
        check: Load the export in other programs and compare their numbers with ours.

    Raises:
        UserError: There is no such form, or the size is not one.
    """

    form: Form = "merged"
    shard_size: str = "5GB"
    label: str | None = None
    check: bool = True

    def __post_init__(self) -> None:
        from rlhfcli.core.publish.card_code import Form

        if self.form not in get_args(Form):
            raise UserError(f"a form is {', '.join(get_args(Form))}, not {self.form}")
        if not _SIZE.fullmatch(self.shard_size):
            where, hint = f"--shard-size {self.shard_size}", "Write 5GB, 500MB or 2GiB."
            raise UserError("this is not a size", where=where, hint=hint)


def sink_of(progress: Progress) -> Sink:
    """Return the sink that shows progress as a project was told to.

    Args:
        progress: ``silent``, ``terminal``, ``notebook``, or a sink.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(progress, str) and hasattr(progress, "stage"):
        return progress
    if progress == "silent":
        return Silent()
    from rlhfcli import console

    if progress == "terminal":
        return console.TerminalSink()
    if progress == "notebook":
        return console.NotebookSink()
    raise UserError(f"progress is silent, terminal, notebook or a Sink, not {progress}")
