"""Data sets whose examples are spread over several rows: the rows are put together before a reader sees them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from rlhfcli.data.dialogues.dialogue import Origin
from rlhfcli.data.reading.rows import Unreadable

Located = tuple[Any, Origin]
_START = 200  # characters of a message that is left out


class Join(Protocol):
    """Puts the rows of a file together."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the rows in the file."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of these rows that are used, those included that a row may lack."""

    def __call__(self, rows: Iterable[Located]) -> Iterator[Located]:
        """Yield joined rows; rows that are no part of one pass through, or come as ``Unreadable`` with the reason."""


@dataclass(frozen=True)
class SamePrompt:
    """Puts neighbouring rows with the same prompt into one row: its ``prompt``, and themselves as ``rows``.

    Args:
        prompt: The column that they share.
        answer: The column in which they differ.
        also: Other columns that are used.
    """

    prompt: str
    answer: str
    also: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the rows in the file."""
        return (self.prompt, self.answer)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that are used."""
        return (*self.needs, *self.also)

    def __call__(self, rows: Iterable[Located]) -> Iterator[Located]:
        """Yield joined rows; each stands where the first of its rows stood."""
        for is_row, located in groupby(rows, lambda item: isinstance(item[0], Mapping) and self.prompt in item[0]):
            if not is_row:
                yield from located
                continue
            for prompt, group in groupby(located, lambda item: item[0][self.prompt]):
                members = list(group)
                yield {self.prompt: prompt, "rows": [row for row, _ in members]}, members[0][1]


@dataclass(frozen=True)
class MessageTrees:
    """Puts single messages that name their parent together: OpenAssistant's trees.

    A question with several ranked replies becomes a row with ``prompt``, ``answers`` and ``ranks``. Replies that
    are not ranked among others, and that nobody answered, become a row with ``messages``: the way from the
    root to them. What is longer contains what is shorter, so no reply is lost.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of the rows in the file."""
        return ("message_id", "parent_id", "text", "role")

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that are used."""
        return (*self.needs, "rank", "deleted", "lang")

    def __call__(self, rows: Iterable[Located]) -> Iterator[Located]:
        """Yield one row for each ranking and dialogue; it stands where its question stood. Holds all messages."""
        messages: dict[str, Located] = {}
        replies: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row, origin in rows:
            if not isinstance(row, Mapping) or any(column not in row for column in self.needs):
                yield row, origin
            elif row.get("deleted"):
                yield _left_out(row, origin, "the message was deleted")
            else:
                messages[row["message_id"]] = row, origin
                replies[row["parent_id"]].append(row)
        for row, origin in messages.values():
            if row["parent_id"] is not None and row["parent_id"] not in messages:
                yield _left_out(row, origin, "the message that it replies to is not in the data")
            elif row["role"] == "prompter":
                yield from self._question(row, origin, messages, replies)

    def _question(
        self,
        row: Mapping[str, Any],
        origin: Origin,
        messages: Mapping[str, Located],
        replies: Mapping[str, list[Mapping[str, Any]]],
    ) -> Iterator[Located]:
        found = replies.get(row["message_id"], [])
        thread = _thread(row, messages)
        if thread is None:
            yield _left_out(row, origin, "the beginning of its conversation is not in the data")
            return
        if not found:
            yield _left_out(row, origin, "nobody replied to the message")
            return
        shared = {"prompt": thread, "lang": row.get("lang")}
        ranked = [reply for reply in found if reply.get("rank") is not None]
        if len(ranked) > 1:
            answers, ranks = [reply["text"] for reply in ranked], [reply["rank"] for reply in ranked]
            yield {**shared, "answers": answers, "ranks": ranks}, origin
        else:
            ranked = []
        for reply in found:
            if reply not in ranked and not replies.get(reply["message_id"]):
                yield {"messages": [*thread, _message(reply)], "lang": row.get("lang")}, origin


def _thread(row: Mapping[str, Any], messages: Mapping[str, Located]) -> list[dict[str, Any]] | None:
    """Return the messages from the root to this one; ``None`` if one is missing."""
    thread, seen = [_message(row)], {row["message_id"]}
    while (parent := row["parent_id"]) is not None:
        if parent not in messages or parent in seen:  # a message may name itself in broken data
            return None
        seen.add(parent)
        row = messages[parent][0]
        thread.append(_message(row))
    return thread[::-1]


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": row["role"], "content": row["text"]}


def _left_out(row: Mapping[str, Any], origin: Origin, reason: str) -> Located:
    return Unreadable(reason, str(row["text"])[:_START], invalid=False), origin
