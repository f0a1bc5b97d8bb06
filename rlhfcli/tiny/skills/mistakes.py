"""Wrong answers: for exercises with a teacher's marks, and for preference pairs."""

from __future__ import annotations

from random import Random

from rlhfcli.tiny.skills.memory import Memory
from rlhfcli.tiny.skills.planner import free_skill, make
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.split import Split


def off_topic_answer(rng: Random, exchange: Exchange, split: Split) -> str:
    """Return the right answer to another question.

    Args:
        rng: Source of randomness.
        exchange: The question that was asked.
        split: Split of the other question.

    Returns:
        A well-formed answer of another skill, of about the same length.
    """
    best = ""
    for _ in range(3):
        skill = free_skill(rng)
        if skill == exchange.skill:
            continue
        answer = make(skill, rng, Memory(reading=True), split).answer
        if answer != exchange.answer and (not best or _gap(answer, exchange) < _gap(best, exchange)):
            best = answer
    return best or off_topic_answer(rng, exchange, split)


def _gap(answer: str, exchange: Exchange) -> int:
    """Return the difference of two answers' lengths."""
    return abs(len(answer) - len(exchange.answer))


def bad_answer(rng: Random, exchange: Exchange, split: Split) -> str:
    """Return an answer that a teacher would mark as wrong.

    Args:
        rng: Source of randomness.
        exchange: The question with its right answer.
        split: Split of another question, if one is drawn.

    Returns:
        A wrong answer of the same form or, less often, one that is off topic.
    """
    if exchange.wrong and rng.random() < 0.75:
        return exchange.wrong
    return off_topic_answer(rng, exchange, split)
