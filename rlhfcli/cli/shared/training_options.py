"""``--resume``, ``--overwrite`` and ``--max-time`` of a training verb."""

from __future__ import annotations

import re

from rlhfcli.api.options import TrainingOptions
from rlhfcli.errors import UserError

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TIME = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))


def training_options(*, resume: bool, overwrite: bool, max_time: str | None) -> TrainingOptions:
    """Check the options of a training verb; the time of ``--max-time`` runs from now.

    Args:
        resume: ``--resume`` was given.
        overwrite: ``--overwrite`` was given.
        max_time: Value of ``--max-time``.

    Raises:
        UserError: They exclude each other, or the time cannot be read.
    """
    checked = TrainingOptions.checked(resume=resume, overwrite=overwrite, max_time=None)
    if max_time is None:
        return checked
    return TrainingOptions.checked(resume=resume, overwrite=overwrite, max_time=seconds(max_time))


def seconds(text: str) -> int:
    """Read a time such as ``3h55m``.

    Args:
        text: Days, hours, minutes and seconds, in this order, each with its letter; none of them is required.

    Raises:
        UserError: It is something else, or nothing.
    """
    found = _TIME.fullmatch(text)
    numbers = found.groups() if found else ()
    total = sum(int(number or 0) * size for number, size in zip(numbers, _UNITS.values(), strict=False))
    if not total:
        raise UserError(f'must be a time such as 3h55m, 90m or 2d, got "{text}"', where="--max-time")
    return total
