"""What became of every row: nothing is left out without being counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhfcli.data.encoded import EncodedDialogue, EncodedPair
from rlhfcli.data.split import PARTS

Phase = Literal["sft", "reward"]
PHASES: tuple[Phase, ...] = ("sft", "reward")
DUPLICATE = "duplicate"


@dataclass
class PhaseCount:
    """Rows of one source in one phase.

    Args:
        parts: Examples written, by part; a row that is used twice counts twice.
        cut: Rows that were shortened.
        dropped: Rows that this phase could not use, by reason.
    """

    parts: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            **{part: self.parts[part] for part in PARTS},
            "cut": self.cut,
            "dropped": _sorted(self.dropped),
        }


@dataclass
class SourceCount:
    """Rows of one source: ``read = kept + dropped``.

    Args:
        path: As the recipe names it.
        shapes: The row shapes that were found in it.
        read: Rows seen.
        kept: Rows that at least one phase uses.
        cut: Kept rows that at least one phase shortened.
        dropped: Rows that none uses, by reason.
        faults: Those of them that are to blame on the row.
        phases: The same by phase.
    """

    path: str
    shapes: list[str] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    phases: dict[Phase, PhaseCount] = field(default_factory=lambda: {phase: PhaseCount() for phase in PHASES})

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "path": self.path,
            "shapes": self.shapes,
            "read": self.read,
            "kept": self.kept,
            "cut": self.cut,
            "dropped": _sorted(self.dropped),
            **{phase: count.as_json() for phase, count in self.phases.items()},
        }


@dataclass
class TokenCount:
    """Tokens of one part of one phase.

    Args:
        rows: Examples.
        tokens: All tokens; of a pair, the prompt once and both answers.
        answer: Tokens that the assistant says, end tokens included.
        longest: Tokens of the longest example; of a pair, of its longer branch with the prompt.
    """

    rows: int = 0
    tokens: int = 0
    answer: int = 0
    longest: int = 0

    def add(self, example: EncodedDialogue | EncodedPair) -> None:
        """Count one example."""
        if isinstance(example, EncodedDialogue):
            tokens = longest = len(example.ids)
            answer = sum(end - begin for begin, end in example.spans)
        else:
            answer = len(example.chosen) + len(example.rejected)
            tokens = len(example.prompt) + answer
            longest = len(example.prompt) + max(len(example.chosen), len(example.rejected))
        self.rows += 1
        self.tokens += tokens
        self.answer += answer
        self.longest = max(self.longest, longest)


def short_reason(reason: str) -> str:
    """A reason without what differs from row to row, to count by."""
    return re.sub(r"\bturn \d+", "a turn", reason)


def _sorted(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
