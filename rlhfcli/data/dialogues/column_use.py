"""Which columns of a row were read: the others are reported, with the share of the rows in which they have a value."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhfcli.data.dialogues import message
from rlhfcli.data.dialogues.dialogue import Dialogue, Preference, is_plain

TOOLS, REASONING, CALLS, UNLEARNT = "tools", "reasoning", "calls", "turns not learnt"
PLAIN, TRANSCRIPTS = "plain text", "transcripts"
_CARRIED = {
    TOOLS: "tools are given to the chat template",
    REASONING: "reasoning is given to the chat template",
    CALLS: "calls of tools are given to the chat template",
    UNLEARNT: "some turns are not learnt (weight, train, loss, masked …)",
    PLAIN: "plain text, all of which is learnt, without the chat template",
    TRANSCRIPTS: "text that begins with a speaker (### Human:, Human:) is read as a dialogue",
}
_IGNORED = {
    TOOLS: "tools are left out, because the chat template has no words for them",
    REASONING: "reasoning is left out, because the chat template has no words for it",
    CALLS: "calls of tools are written as JSON, because the chat template has no words for them",
}


class WatchedRow(Mapping[str, Any]):
    """A row that remembers which of its columns were read.

    Args:
        row: The row as it was read from its file.

    Attributes:
        read: The columns that were read.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        value = self._row[column]
        self.read.add(column)
        return value

    def __contains__(self, column: object) -> bool:
        return column in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def peek(self, column: str) -> Any:
        """Return the value of a column, or ``None``; the column does not count as read.

        Args:
            column: The name of the column.
        """
        return self._row.get(column)

    def unread(self) -> dict[str, Any]:
        """Return the columns that have a value and were not read, and such keys of messages: ``messages[].name``."""
        found = {str(name): value for name, value in self._row.items() if name not in self.read and has_value(value)}
        for name in self.read:
            for each in _messages(self._row.get(name)):
                for key, value in each.items():
                    if key not in message.KEYS and has_value(value):
                        found.setdefault(f"{name}[].{key}", value)
        return found


def column_notes(shares: Mapping[str, float], carried: Mapping[str, int], ignored: Collection[str] = ()) -> list[str]:
    """Return what to report about the columns of a source.

    Args:
        shares: The unread columns, from ``ColumnUse.shares``.
        carried: What is used beside the texts, each with its number of rows.
        ignored: The entries of ``carried`` that the chat template leaves out.

    Returns:
        Lines of text; none if there is nothing to report.
    """
    named = {name or "one without a name": share for name, share in shares.items()}  # as pandas writes its index
    names = [name if share == 1 else f"{name} ({_percent(share)})" for name, share in named.items()]
    lines = [f"columns not read: {', '.join(names)}"] if names else []
    words = _CARRIED | {what: text for what, text in _IGNORED.items() if what in ignored}
    return lines + [f"{words[what]}: {count:,} {'row' if count == 1 else 'rows'}" for what, count in carried.items()]


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{min(99, round(100 * share))} %"


def has_value(value: Any) -> bool:
    """Return whether a cell has a value: it is not null, not empty, and not the NaN of pandas.

    Args:
        value: The content of the cell.
    """
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and not (isinstance(value, str | list | dict) and not value)


def peek(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or ``None`` if it has none; the column does not count as read.

    Args:
        row: A row, watched or not.
        column: The name of the column.
    """
    value = row.peek(column) if isinstance(row, WatchedRow) else row.get(column)
    return value if has_value(value) else None


@dataclass
class ColumnUse:
    """Counts which columns of a source are read.

    Args:
        rows: Rows that were converted.
        unread: Rows in which a column has a value that is not read, by column.
        carried: Rows in which something beside the texts is used, by its kind: tools, reasoning …
    """

    rows: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    carried: Counter[str] = field(default_factory=Counter)

    def add(self, row: WatchedRow, example: Dialogue | Preference, *, joined: bool = False) -> str:
        """Count a row that was converted.

        Args:
            row: The row, after it was converted.
            example: The dialogue or preference that it became.
            joined: Whether it was joined from other rows, whose columns are counted already.

        Returns:
            Its unread values as text, to compare rows by.
        """
        left = {} if joined else row.unread()
        self.rows += not joined
        self.unread.update([*left, *_reasons_of_answers(row, example)])
        turns = example.turns if isinstance(example, Dialogue) else example.prompt
        self.carried[TOOLS] += bool(example.tools)
        self.carried[REASONING] += any(turn.reasoning for turn in turns)
        self.carried[UNLEARNT] += not all(turn.train for turn in turns)
        self.carried[PLAIN] += is_plain(turns)
        self.carried[TRANSCRIPTS] += "text" in row.read and not (joined or is_plain(turns))
        self.carried[CALLS] += any(turn.calls for turn in turns)
        return json.dumps(left, sort_keys=True, default=str) if left else ""

    def count(self, row: WatchedRow) -> None:
        """Count the unread columns of a row, and nothing else.

        Args:
            row: The row, after it was read.
        """
        self.rows += 1
        self.unread.update(list(row.unread()))

    def add_unjoined(self, row: Any, read: Iterable[str]) -> None:
        """Count the unread columns of a row that is to be joined with others.

        Args:
            row: The row as it was read from its file.
            read: The columns that the join reads.
        """
        if isinstance(row, Mapping):
            self.rows += 1
            self.unread.update(str(name) for name, value in row.items() if name not in read and has_value(value))

    def shares(self) -> dict[str, float]:
        """Return the columns that are not read, with the share of the rows in which they have a value."""
        return {name: round(count / self.rows, 4) for name, count in sorted(self.unread.items())}


def _reasons_of_answers(row: WatchedRow, example: Dialogue | Preference) -> list[str]:
    """Name the columns of a preference whose answer has reasoning or calls, which are not compared."""
    if isinstance(example, Dialogue):
        return []
    found = []
    for name in sorted(row.read):
        messages = _messages(row.peek(name))
        if messages and str(messages[-1].get("role")) == "assistant":
            found += [f"{name}[-1]: reasoning of the answer"] if message.has_reasoning(messages[-1]) else []
            found += [f"{name}[-1]: calls of tools (compared as JSON)"] if _calls(messages[-1]) else []
    return found


def _calls(message_: Mapping[str, Any]) -> bool:
    return any(has_value(message_.get(key)) for key in message.CALLS)


def _messages(value: Any) -> list[Mapping[str, Any]]:
    """Return the messages in a cell, which may be a list of them or a single one."""
    items = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping) and ("role" in item or "from" in item)]
