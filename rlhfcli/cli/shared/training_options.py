"""How a training verb begins and when it ends: ``--resume``, ``--overwrite``, ``--max-time``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhfcli.errors import UserError

if TYPE_CHECKING:
    from rlhfcli.core.checkpoints.manager import TrainingSession

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TIME = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS))


@dataclass(frozen=True)
class TrainingOptions:
    """What the user asked for.

    Args:
        verb: Which one.
        resume: Go on from the newest checkpoint.
        overwrite: Begin again, and replace what is there.
        until: When to end, by the monotonic clock.
    """

    verb: str
    resume: bool = False
    overwrite: bool = False
    until: float | None = None

    def session(self, fingerprint: str, resume: str) -> TrainingSession:
        """The same for the training.

        Args:
            fingerprint: Of the prepared data.
            resume: What to type to go on.
        """
        from rlhfcli.core.checkpoints.manager import TrainingSession
        from rlhfcli.core.checkpoints.stop import Stop

        left = None if self.until is None else self.until - time.monotonic()
        return TrainingSession(self.resume, fingerprint, Stop(left), resume)


def going(verb: str, *, resume: bool, overwrite: bool, max_time: str | None) -> TrainingOptions:
    """Check the options. The clock of ``--max-time`` runs from now.

    Raises:
        UserError: They contradict each other, or the time cannot be read.
    """
    if resume and overwrite:
        raise UserError(
            "--resume and --overwrite exclude each other", hint="--resume goes on, --overwrite begins again."
        )
    return TrainingOptions(verb, resume, overwrite, None if max_time is None else time.monotonic() + seconds(max_time))


def seconds(text: str) -> int:
    """Read a time such as ``3h55m``.

    Args:
        text: Days, hours, minutes, seconds, in this order, each with its letter; none needs to be there.

    Raises:
        UserError: It is something else, or nothing.
    """
    found = _TIME.fullmatch(text)
    total = (
        sum(int(number or 0) * size for number, size in zip(found.groups(), _UNITS.values(), strict=True))
        if found
        else 0
    )
    if not total:
        raise UserError(f'must be a time such as 3h55m, 90m or 2d, got "{text}"', where="--max-time")
    return total
