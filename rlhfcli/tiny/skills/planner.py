"""All skills by name, and the planner that combines several of them to one conversation."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rlhfcli.tiny.skills import closed, lists, manners
from rlhfcli.tiny.skills.instructions import INSTRUCTIONS
from rlhfcli.tiny.skills.memory import RECALL, TELL, Memory, knows
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.split import Split

FREE: dict[str, Callable[[Random, Split], Exchange]] = {
    "greet": manners.greet,
    "thanks": manners.thanks,
    "goodbye": manners.goodbye,
    "how_are_you": manners.how_are_you,
    "capital": closed.capital,
    "colour": closed.colour,
    "sound": closed.sound,
    "opposite": closed.opposite,
    "category": closed.category,
    "yesno": closed.yesno,
    "order": closed.order,
    "howto": closed.howto,
    "add": closed.add,
    "subtract": closed.subtract,
    "compare": closed.compare,
    "refuse": manners.refuse,
    "help": manners.help_out,
    "unknown": manners.unknown,
    "repeat": lists.repeat,
    "reverse": lists.reverse,
    "sort": lists.sort,
    "list_item": lists.list_item,
}
"""Skills that need no memory; the pre-training text contains them."""

SKILLS: tuple[str, ...] = (*FREE, *INSTRUCTIONS, *TELL, *RECALL)
RECALL_SKILLS: tuple[str, ...] = tuple(RECALL)

_FREE_NAMES = tuple(FREE)
_FREE_WEIGHTS = tuple(
    {
        "thanks": 0.5,
        "goodbye": 0.5,
        "how_are_you": 0.5,
        "yesno": 1.3,
        "add": 1.5,
        "subtract": 1.5,
        "order": 1.3,
        "sort": 1.3,
        "reverse": 1.3,
        "list_item": 1.3,
    }.get(name, 1.0)
    for name in _FREE_NAMES
)
_MEMORY_SHARE = 0.5
_INSTRUCTION_SHARE = 0.3  # of the turns of a dialogue that need no memory
# 2 of 5 wrong answers about a stated fact are "I don't know": with this share it is right as often as wrong.
_TOLD_SHARE = 5 / 7


def make(skill: str, rng: Random, memory: Memory, split: Split) -> Exchange:
    """Make one exchange of a skill and remember the facts that it states.

    Args:
        skill: One of ``SKILLS``.
        rng: Source of randomness.
        memory: Facts stated so far; changed in place.
        split: ``train`` or ``test``.

    Returns:
        The exchange.
    """
    if skill == "refuse" and not memory.reading and rng.random() < 0.4:
        return manners.refuse_how_to(rng, split)
    if skill in FREE:
        return FREE[skill](rng, split)
    if skill in INSTRUCTIONS:
        return INSTRUCTIONS[skill](rng, split)
    return (TELL.get(skill) or RECALL[skill])(rng, memory, split)


def free_skill(rng: Random, reading: bool = True) -> str:
    """Draw a skill that needs no memory.

    Args:
        rng: Source of randomness.
        reading: Whether the text is for pre-training, which has no instructions.

    Returns:
        Its name.
    """
    if not reading and rng.random() < _INSTRUCTION_SHARE:
        return rng.choice(tuple(INSTRUCTIONS))
    return rng.choices(_FREE_NAMES, _FREE_WEIGHTS)[0]


def _next_skill(rng: Random, memory: Memory, last: bool) -> str:
    """Choose the next skill: facts are stated early and recalled later."""
    if rng.random() > (0.7 if last else _MEMORY_SHARE):
        return free_skill(rng, memory.reading)
    known = [skill for skill in RECALL if knows(memory, skill)]
    if known and rng.random() < (0.75 if last else 0.35):
        return rng.choice(known)
    if rng.random() < 0.25:
        return rng.choice(tuple(RECALL))
    untold = ["tell_favourite", "tell_pet"] if memory.name else ["tell_name", "tell_name", "tell_favourite", "tell_pet"]
    return rng.choice(untold)


def plan(rng: Random, turns: int, split: Split, reading: bool = False) -> list[Exchange]:
    """Make a conversation of mixed skills, with facts stated early and recalled later.

    Args:
        rng: Source of randomness.
        turns: Number of exchanges.
        split: ``train`` or ``test``.
        reading: Whether the text is for pre-training, see ``Memory``.

    Returns:
        The exchanges in their order.
    """
    # Fine-tuning asks more often for facts that were not stated: another favourite, another animal.
    memory = Memory(reading=reading, asks_known=0.9 if reading else 0.7)
    return [make(_next_skill(rng, memory, turn == turns - 1), rng, memory, split) for turn in range(turns)]


def plan_towards(rng: Random, skill: str, split: Split, fillers: tuple[int, int] = (0, 4)) -> list[Exchange]:
    """Make a conversation whose last question is of a given skill and split.

    For a recall skill, mostly, an early turn states the fact, then come fillers, then the question.

    Args:
        rng: Source of randomness.
        skill: The skill of the last question.
        split: Split of the last question and of all stated facts; fillers are from the training set.
        fillers: Smallest and largest number of unrelated turns in between.

    Returns:
        The exchanges; the last one has the given skill.
    """
    memory = Memory()
    count = rng.randint(*fillers)
    unrelated = [free_skill(rng, memory.reading) for _ in range(count)]
    told = {"recall_favourite": "tell_favourite", "recall_pet": "tell_pet"}.get(skill, "tell_name")
    if skill not in RECALL:
        return [make(s, rng, memory, "train") for s in unrelated] + [make(skill, rng, memory, split)]
    if rng.random() < _TOLD_SHARE:
        start = [make(told, rng, memory, split)]
        if rng.random() < 0.3:  # a second fact of another kind, not to be confused with the first
            start.insert(rng.randint(0, 1), make(rng.choice([t for t in TELL if t != told]), rng, memory, split))
        return start + [make(s, rng, memory, "train") for s in unrelated] + [make(skill, rng, memory, split)]
    # No fact was stated: the question alone would also occur in training, so a held-out turn precedes it.
    start = [
        make(free_skill(rng, memory.reading), rng, memory, split),
        *(make(s, rng, memory, "train") for s in unrelated),
    ]
    return [*start, make(skill, rng, memory, split)]
