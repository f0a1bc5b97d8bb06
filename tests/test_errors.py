"""The hint about a file that could not be written follows from the kind of error."""

import errno
from pathlib import Path

import pytest

from rlhfcli.errors import OutputError, write_error_hint, writing

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
def test_a_hint_follows_the_reason(error, said):
    assert write_error_hint(error).startswith(said)
    assert bool(write_error_hint(error)) is bool(said)


@pytest.mark.parametrize(
    ("error", "what", "hint", "expected"),
    [
        (REASONS[0][0], "", "", "x: cannot be written: No space left on device\nThe disk is full: make room on it."),
        (
            REASONS[2][0],
            "the output folder",
            "Choose another one.",
            "x: the output folder cannot be written: Permission denied\n"
            "This user may not write there. Choose another one.",
        ),
        (OSError("odd"), "", "", "x: cannot be written: odd"),
    ],
)
def test_an_error_of_the_disk_says_what_cannot_be_written(error, what, hint, expected):
    with pytest.raises(OutputError) as caught, writing(Path("x"), what, hint):
        raise error
    assert str(caught.value) == expected


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), writing(Path("x")):
        _ = 1 / 0
