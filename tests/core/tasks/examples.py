"""Small dialogues and preferences for the tests of tasks."""

from __future__ import annotations

from itertools import combinations

from rlhfcli.data.encoding.encoded import EncodedDialogue, EncodedPreference
from tests.core import families


def dialogues() -> list[EncodedDialogue]:
    rows = families.token_ids([12, 25, 7, 18])
    return [
        EncodedDialogue(rows[0], [(4, 12)]),
        EncodedDialogue(rows[1], [(5, 9), (15, 25)]),
        EncodedDialogue(rows[2], [(0, 7)]),  # nothing before the first word: that token cannot be learnt
        EncodedDialogue(rows[3], [(17, 18)]),
    ]


def preferences() -> list[EncodedPreference]:
    """Pairs, a ranking of four answers and a partial one of eight."""
    prompts = families.token_ids([5, 11, 3, 9, 6], seed=1)
    chosen = families.token_ids([4, 9, 2], seed=2)
    rejected = families.token_ids([7, 3, 2], seed=3)
    rejected[0][:2] = chosen[0][:2]  # differ from the third token on
    two = zip(prompts[:3], chosen, rejected, strict=True)
    four = families.token_ids([6, 2, 8, 4], seed=4)
    four[2][:4] = four[0][:4]
    every = list(combinations(range(4), 2))
    eight = families.token_ids([3, 5, 1, 4, 6, 2, 7, 3], seed=5)
    some = [(0, 7), (1, 4), (0, 2), (3, 5)]
    return [
        *(EncodedPreference.pair(*row, margin=0.5 * i) for i, row in enumerate(two)),
        EncodedPreference(prompts[3], four, every, [0.1 * (b - a) for a, b in every]),
        EncodedPreference(prompts[4], eight, some, [0.0, 0.3, 0.2, 1.0]),
    ]
