"""One question with its right answer and a wrong one: what all generated texts are built from."""

from __future__ import annotations

from typing import NamedTuple


class Exchange(NamedTuple):
    """A question, its answer, and an answer of the same look that is wrong.

    ``wrong`` is empty where no wrong answer makes sense (a greeting).
    """

    skill: str
    question: str
    answer: str
    wrong: str = ""
