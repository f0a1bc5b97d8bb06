"""What a prompt loses when it is too long: the oldest exchanges first, at turn borders."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfcli.data.dialogue import Turn
from rlhfcli.data.segments import Segmenter

_SMALLEST_PROMPT = 16  # a cut user turn keeps at least 1/16 of max_length: an answer to nothing teaches nothing


class Shortener:
    """Makes prompts fit.

    Args:
        segmenter: Writes them as tokens.
        max_length: Tokens that a whole example may have.
    """

    def __init__(self, segmenter: Segmenter, max_length: int) -> None:
        self._segmenter = segmenter
        self._max_length = max_length

    def shorten(self, turns: Sequence[Turn], room: int) -> list[Turn]:
        """Leave out the oldest exchanges, and at last the beginning of the user's text, until a prompt fits.

        Args:
            turns: The conversation so far.
            room: Tokens that its prompt should have at most; the smallest prompt may have more.

        Returns:
            The turns that are left.
        """
        head = [turn for turn in turns[:1] if turn.role == "system"]
        rest = list(turns[len(head) :])
        starts = [k for k, turn in enumerate(rest) if turn.role == "user"] or [0]
        lengths = [len(ids) for ids in self._segmenter.tokenise([turn.content for turn in turns])]
        while len(starts) > 1 and sum(lengths[: len(head)]) + sum(lengths[len(head) + starts[0] :]) > room:
            starts.pop(0)  # too long even without the template's words: not worth a try
        for start in starts:
            left = head + rest[start:]
            if self._prompt_length(left) <= room:
                return left
        return self._cut_user(head, rest[starts[-1] :], room)

    def _cut_user(self, head: list[Turn], exchange: list[Turn], room: int) -> list[Turn]:
        """Cut the beginning of the user's last text; if that is not enough, the system turn goes too."""
        user, *others = exchange
        ids = self._segmenter.tokenise([user.content])[0]
        least = min(len(ids), max(1, self._max_length // _SMALLEST_PROMPT))
        around = self._prompt_length([*head, *exchange]) - len(ids)
        if head and around + least > room:
            return self._cut_user([], exchange, room)
        keep = max(least, min(len(ids), room - around))
        while True:
            left = [*head, Turn(user.role, self._ending(ids, keep)), *others]
            excess = self._prompt_length(left) - room
            if excess <= 0 or keep <= least:
                return left
            keep = max(least, keep - excess)  # the cut text may have other merges, thus more tokens

    def _ending(self, ids: list[int], count: int) -> str:
        """The text of the last tokens, without a torn first character."""
        text = self._segmenter.text(ids[-count:])
        return text.lstrip("\ufffd") or text

    def _prompt_length(self, turns: Sequence[Turn]) -> int:
        return sum(map(len, self._segmenter.prompt_ids(turns)))
