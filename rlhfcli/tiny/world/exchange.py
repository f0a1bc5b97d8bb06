"""One question with its right answer and a wrong one: the unit of all generated texts."""

from __future__ import annotations

from typing import NamedTuple


class Exchange(NamedTuple):
    """A question, its answer, and a wrong answer of the same form.

    ``wrong`` is empty if there is no sensible wrong answer (to a greeting).
    """

    skill: str
    question: str
    answer: str
    wrong: str = ""
