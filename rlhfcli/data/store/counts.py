"""Count what becomes of every row: used, shortened, skipped as a duplicate, filtered or invalid, each by reason."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rlhfcli.data.dialogues.column_use import ColumnUse
from rlhfcli.data.store.split import PARTS
from rlhfcli.files.run_layout import PHASES, Phase

DUPLICATE = "duplicate"
NEAR_DUPLICATE = "duplicate but for upper case and white space"
SAME_BUT_UNREAD = "duplicate but for columns that are not read"
WRITES_DATE = (
    "The chat template writes today's date: 26 July 2024 stands for every day, in training, evaluation and chat. Other "
    "programs write the day's."
)
DUPLICATES = (DUPLICATE, NEAR_DUPLICATE, SAME_BUT_UNREAD)


@dataclass
class PhaseCount:
    """The counts of one source in one phase.

    Args:
        parts: Examples written, by part; a row that is used twice counts twice.
        cut: Rows that were shortened.
        divided: Rows that became an example for each of several answers, since the template does not append.
        merged: Comparisons of rankings that were left out, since shortening made their answers the same.
        dropped: Rows that this phase could not use and another could, by reason.
        lost: Rows that no phase could use; ``SourceCount.dropped`` has their reasons.
    """

    parts: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    divided: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {
            **{part: self.parts[part] for part in PARTS},
            "cut": self.cut,
            "divided": self.divided,
            "merged": self.merged,
            "dropped": _sorted(self.dropped),
        }


@dataclass
class SourceCount:
    """The counts of one source: ``read = kept + dropped``.

    Args:
        path: The path of the source in the recipe.
        shapes: The row shapes that were found in it.
        read: Rows read.
        kept: Rows that at least one phase uses.
        cut: Kept rows that at least one phase shortened.
        dropped: Rows that no phase uses, by reason.
        invalid: Dropped rows that something is wrong with: neither duplicates nor filtered by the recipe.
        phases: The counts of each phase.
        columns: The columns that are not read, and what is used beside the texts.
    """

    path: str
    shapes: list[str] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    phases: dict[Phase, PhaseCount] = field(default_factory=lambda: {phase: PhaseCount() for phase in PHASES})
    columns: ColumnUse = field(default_factory=ColumnUse)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {
            "path": self.path,
            "shapes": self.shapes,
            "read": self.read,
            "kept": self.kept,
            "cut": self.cut,
            "dropped": _sorted(self.dropped),
            "faults": self.invalid,
            "columns_not_read": self.columns.shares(),
            "carried": _sorted(self.columns.carried),
            **{phase: count.as_json() for phase, count in self.phases.items()},
        }


def short_reason(reason: str) -> str:
    """Return a reason without the numbers that differ from row to row, to count rows by it.

    Args:
        reason: The reason.
    """
    return re.sub(r" \(ends on line \d+\)$", "", re.sub(r"\bturn \d+", "a turn", reason))


def raised_share(asked: float, used: float) -> str:
    """Return the note that the validation share is larger than the recipe's.

    Args:
        asked: The share that the recipe asks for, ``data.validation``.
        used: The share that gives every phase a conversation.
    """
    return (
        f"data.validation: {asked:g} of these few conversations is less than one; {used:.2g} are kept aside, so that "
        "every phase has one to measure with"
    )


def _sorted(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted((+reasons).items(), key=lambda item: (-item[1], item[0])))
