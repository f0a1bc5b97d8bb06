"""Shorten prompts that are too long: leave out the oldest exchanges first, at turn borders."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.templates.segments import Segmenter

_SMALLEST_PROMPT = 16  # a cut user turn keeps at least 1/16 of max_length: an answer to nothing teaches nothing


class Shortener:
    """Makes prompts fit.

    Args:
        segmenter: Tokenises prompts, with the chat template.
        max_length: The longest example, in tokens.
    """

    def __init__(self, segmenter: Segmenter, max_length: int) -> None:
        self._segmenter = segmenter
        self._max_length = max_length

    def shorten(self, turns: Sequence[Turn], room: int, tools: str = "") -> list[Turn]:
        """Leave out the oldest exchanges, and at last the beginning of the user's text, until a prompt fits.

        Args:
            turns: The conversation so far.
            room: The tokens that the prompt should have at most; the smallest prompt may have more.
            tools: The tools that the assistant may call; they stay.

        Returns:
            The remaining turns.
        """
        head = [turn for turn in turns[:1] if turn.role == "system"]
        rest = list(turns[len(head) :])
        starts = [k for k, turn in enumerate(rest) if turn.role == "user"] or [0]
        lengths = [len(ids) for ids in self._segmenter.content_ids(turns)]
        behind = [*accumulate(reversed(lengths[len(head) :]), initial=sum(lengths[: len(head)]))][::-1]
        # too long even without the template's words: not worth a try
        starts = [start for start in starts[:-1] if behind[start] <= room] + starts[-1:]
        # the fewer turns are left, the shorter is what is left
        found = bisect_left(starts, True, key=lambda start: self._length(head + rest[start:], tools) <= room)
        if found < len(starts):
            return head + rest[starts[found] :]
        return self._cut_user(head, rest[starts[-1] :], room, tools)

    def _cut_user(self, head: list[Turn], exchange: list[Turn], room: int, tools: str) -> list[Turn]:
        """Cut the beginning of the user's last text; if that is not enough, the system turn goes too."""
        user, *others = exchange
        ids = self._segmenter.content_ids([user])[0]
        least = min(len(ids), max(1, self._max_length // _SMALLEST_PROMPT))
        around = self._length([*head, *exchange], tools) - len(ids)
        if head and around + least > room:
            return self._cut_user([], exchange, room, tools)
        keep = max(least, min(len(ids), room - around))
        while True:
            left = [*head, Turn(user.role, self._ending(ids, keep)), *others]
            excess = self._length(left, tools) - room
            if excess <= 0 or keep <= least:
                return left
            keep = max(least, keep - excess)  # the cut text may have other merges, thus more tokens

    def _ending(self, ids: list[int], count: int) -> str:
        """Return the text of the last tokens, without a torn first character."""
        text = self._segmenter.text(ids[-count:])
        return text.lstrip("\ufffd") or text

    def _length(self, turns: Sequence[Turn], tools: str) -> int:
        return sum(map(len, self._segmenter.prompt_ids(turns, tools)))
