"""The errors that a user can meet.

    RlhfError                 exit 1   something the program could not do
    ├── UserError             exit 2   something the user can correct: shown as one panel, no traceback
    │   ├── UsageError                 an invalid command line
    │   ├── RecipeError                an invalid recipe or --set: all problems at once
    │   ├── DataError                  a file or a row that cannot be used
    │   ├── ModelError                 a model or tokenizer folder that cannot be used
    │   ├── OutputError                a folder that cannot be written, or that belongs to something else
    │   ├── OutOfMemory                the work does not fit into memory
    │   └── LaunchError                ranks that cannot be started with these options
    ├── TrainingError         exit 1   the run cannot continue (a loss that is not a number)
    ├── RankError             exit 1   one of several ranks has failed
    └── Interrupted           exit 130 Ctrl-C, SIGTERM or --max-time, with a checkpoint

Every error says *what* is wrong, *where*, and *what to do*. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_OUT_OF_MEMORY = (  # messages of torch, CUDA, NCCL and the system
    "CUDA out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "'out of memory'",  # NCCL: Cuda failure 2 'out of memory'
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "annot allocate memory",  # the system's message, quoted by libraries written in C or Rust
    "can't start new thread",
    "failed to map segment from shared object",  # the import of a library
)
_NOT_PERMITTED = "not permitted"  # the library lies where nothing may be executed

_WRITE_HINTS = {
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
    """Something that the program could not do.

    Args:
        what: One sentence: what is wrong.
        where: File and line, key, or folder.
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
    """Something the user can correct; shown as one panel without a traceback."""

    exit_code = 2


class UsageError(UserError):
    """The command line is invalid."""

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
    """Ranks cannot be started on this machine, or with this combination of options."""

    title = "Launch"


class OutOfMemory(UserError):
    """The work does not fit into the memory of this machine or its GPU."""

    title = "Out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a library failed to allocate memory; torch has no common type for these errors.

    Args:
        error: Raised by torch, CUDA, NCCL or Python; our own ``OutOfMemory`` does not count.
    """
    if isinstance(error, OutOfMemory):
        return False
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    by_number = getattr(error, "errno", None) == errno.ENOMEM
    return by_type or by_number or mentions_out_of_memory(str(error))


def mentions_out_of_memory(text: str) -> bool:
    """Return whether an error message is one of a failed allocation.

    Args:
        text: The message of an error, as read from another process.
    """
    return any(message in text for message in _OUT_OF_MEMORY) and _NOT_PERMITTED not in text


class TrainingError(RlhfError):
    """Training cannot continue, for example because the loss is not a number."""

    title = "Training stopped"


class RankError(RlhfError):
    """One of several ranks has failed, and the run with it."""

    title = "A rank has failed"


class Interrupted(RlhfError):
    """The program was asked to stop, or reached its time limit; a checkpoint keeps its progress."""

    exit_code = 130
    title = "Interrupted"


@dataclass(frozen=True)
class Problem:
    """One problem of a recipe.

    Args:
        where: ``file:line`` or ``--set #2``.
        key: Dotted path of the key, such as ``sft.learning_rate``; empty for the file as a whole.
        what: What is wrong, and the nearest valid key where there is one.
    """

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class RecipeError(UserError):
    """A recipe is invalid. Holds all its problems, sorted by line.

    Args:
        problems: All problems.
        hint: What to do about it.
    """

    title = "Recipe"

    def __init__(self, problems: list[Problem], hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = problems


@contextmanager
def writing(where: Path, what: str = "", hint: str = "") -> Iterator[None]:
    """Report an ``OSError`` inside the block as an ``OutputError``.

    Args:
        where: File or folder that is written.
        what: Its name in the message.
        hint: What to do, after a hint that follows from the kind of error.

    Raises:
        OutputError: The block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason = f"{what} cannot be written: {error.strerror or error}".lstrip()
        raise OutputError(reason, where=str(where), hint=f"{write_error_hint(error)} {hint}".strip()) from error


def write_error_hint(error: BaseException) -> str:
    """Return what to do about a file or folder that could not be written.

    Args:
        error: The exception; libraries written in other languages put the error number into the text.

    Returns:
        A sentence; empty for an unknown error.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"(?:os error|code:) (\d+)", str(error))):
        number = int(found[1])
    return _WRITE_HINTS.get(number or 0, "")
