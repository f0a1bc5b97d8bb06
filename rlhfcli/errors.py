"""The errors that a user can meet.

    RlhfError                 exit 1   something the program could not do
    ├── UserError             exit 2   something the user can mend: shown as one panel, no traceback
    │   ├── UsageError                 a command line that cannot be understood
    │   ├── RecipeError                a recipe, or a --set, that cannot be used: all problems at once
    │   ├── DataError                  a file or a row that cannot be used
    │   ├── ModelError                 a model or tokenizer folder that cannot be used
    │   ├── OutputError                a folder that cannot be written, or that belongs to something else
    │   ├── OutOfMemory                what was asked for does not fit into memory
    │   └── LaunchError                ranks that cannot be started as asked
    ├── TrainingError         exit 1   the run cannot go on (a loss that is not a number)
    ├── RankError             exit 1   one of several ranks has failed
    └── Interrupted           exit 130 Ctrl-C, SIGTERM or --max-time, with a checkpoint

Every error says *what* is wrong, *where*, and *what to do*. Anything else that is raised is a bug and keeps its
traceback.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

_NO_MEMORY = (
    "CUDA out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "'out of memory'",  # NCCL: Cuda failure 2 'out of memory'
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "annot allocate memory",  # the system's own words, as a library written in C or Rust repeats them
    "can't start new thread",
    "failed to map segment from shared object",  # of a library that is imported; where it may not be run, that is said
)

_WHY_NOT_WRITTEN = {
    errno.ENOSPC: "The disk is full: make room on it.",
    errno.EDQUOT: "Your share of the disk (quota) is used up: make room.",
    errno.ENOENT: "Was the folder moved or removed meanwhile?",
    errno.EACCES: "This user may not write there.",
    errno.EPERM: "This user may not write there.",
    errno.EROFS: "The disk is mounted read-only.",
    errno.EFBIG: "The file system, or ulimit -f, allows no larger file.",
    errno.ENAMETOOLONG: "The name is too long for this disk.",
    errno.EIO: "The disk, or the connection to it, fails.",
    errno.ESTALE: "The connection to a disk on the network was lost.",
}


class RlhfError(Exception):
    """Something the program could not do.

    Args:
        what: One sentence: what is wrong.
        where: The file and line, the key or the folder it is about.
        hint: What to do about it.
    """

    exit_code = 1
    title = "Error"

    def __init__(self, what: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class UserError(RlhfError):
    """Something the user can mend; shown as one panel without a traceback."""

    exit_code = 2


class UsageError(UserError):
    """A command line that cannot be understood."""

    title = "Usage"


class DataError(UserError):
    """A data file or a row of it cannot be used."""

    title = "Data"


class ModelError(UserError):
    """A model or tokenizer cannot be loaded or does not fit its use."""

    title = "Model"


class OutputError(UserError):
    """A folder cannot be written, or already belongs to something else."""

    title = "Output"


class LaunchError(UserError):
    """Ranks cannot be started as asked: on this machine, or with these options together."""

    title = "Launch"


class OutOfMemory(UserError):
    """What was asked for does not fit into the memory of this machine, or of its GPU."""

    title = "Out of memory"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a library says that memory was not to be had; torch has no type for all of them.

    Args:
        error: Of torch, CUDA, NCCL, or Python itself.
    """
    if isinstance(error, OutOfMemory):
        return False  # said already
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or getattr(error, "errno", None) == errno.ENOMEM
        or no_memory(str(error))
    )


def no_memory(text: str) -> bool:
    """The same of what such an error says."""
    return any(words in text for words in _NO_MEMORY) and "not permitted" not in text


class TrainingError(RlhfError):
    """Training cannot go on, for example because the loss is not a number."""

    title = "Training stopped"


class RankError(RlhfError):
    """One of several ranks has failed, and with it the run."""

    title = "A rank has failed"


class Interrupted(RlhfError):
    """The program was asked to stop, or its time was over; what was done is kept."""

    exit_code = 130
    title = "Interrupted"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe.

    Args:
        where: ``file:line`` or ``--set #2``.
        key: Dotted path of the key, such as ``sft.learning_rate``; empty when the file as a whole is meant.
        what: What is wrong, and the nearest right key where there is one.
    """

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class RecipeError(UserError):
    """A recipe cannot be used. Holds all its problems, sorted by line.

    Args:
        problems: Everything that is wrong.
        hint: What to do about it.
    """

    title = "Recipe"

    def __init__(self, problems: list[Problem], hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = problems


def why_not_written(error: BaseException) -> str:
    """What to do about a file or folder that could not be written.

    Args:
        error: What was raised; libraries in other languages tell the number in their text.

    Returns:
        A sentence; empty where nobody knows.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"(?:os error|code:) (\d+)", str(error))):
        number = int(found[1])
    return _WHY_NOT_WRITTEN.get(number or 0, "")
