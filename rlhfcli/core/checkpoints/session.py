"""What one command contributes to a training that may be stopped and resumed."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhfcli.core.checkpoints.stop import Stop


@dataclass(frozen=True)
class TrainingSession:
    """One invocation of a training that may be resumed.

    Args:
        resume: Resume from the newest checkpoint.
        fingerprint: Fingerprint of the prepared data.
        stop: Says when to stop early.
        resume_command: Command that resumes this training.
    """

    resume: bool = False
    fingerprint: str = ""
    stop: Stop = field(default_factory=Stop)
    resume_command: str = "--resume"
