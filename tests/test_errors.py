"""What is said about a file that could not be written goes by the reason, not by a guess."""

import errno

import pytest

from rlhfcli.errors import write_error_hint

REASONS = [
    (OSError(errno.ENOSPC, "No space left on device"), "The disk is full: make room on it."),
    (FileNotFoundError(errno.ENOENT, "No such file"), "Was the folder moved or removed meanwhile?"),
    (PermissionError(errno.EACCES, "Permission denied"), "This user may not write there."),
    (OSError(errno.EROFS, "Read-only file system"), "The disk is mounted read-only."),
    (OSError(errno.EINVAL, "Invalid argument"), ""),
    (ValueError("x"), ""),
    (
        RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No" })'),
        "The disk is",
    ),
    (RuntimeError("No space left on device (os error 28)"), "The disk is full: make room on it."),
]


@pytest.mark.parametrize(("error", "said"), REASONS)
def test_why_not_written(error, said):
    assert write_error_hint(error).startswith(said)
    assert bool(write_error_hint(error)) is bool(said)
