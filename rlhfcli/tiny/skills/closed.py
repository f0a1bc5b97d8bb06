"""Skills based on tables: capitals, colours, opposites, sequences, single digits.

A question is a template with an argument, and both together decide the split: a test asks for a fact that the model
may know, in a sentence that never occurs in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random

from rlhfcli.tiny.world import facts
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.split import Split, split_of


def draw_question(
    rng: Random, split: Split, skill: str, templates: Sequence[str], args: Sequence[str]
) -> tuple[str, str]:
    """Draw a question of the training or the test set.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
        skill: Name of the skill, part of the hash.
        templates: Wordings with one ``{}``; the first is always for training, so that each fact is taught.
        args: Values for ``{}``.

    Returns:
        The argument and the question.
    """
    while True:
        arg = rng.choice(args)
        index = rng.randrange(len(templates))
        side = split_of(f"{skill}|{index}|{arg}") if index else "train"
        if side == split:
            return arg, facts.capitalised(templates[index].format(arg))


def _other(rng: Random, values: Sequence[str], value: str) -> str:
    """Draw a value that differs from the right one."""
    while True:
        other = rng.choice(values)
        if other != value:
            return other


def table_skill(
    skill: str, table: Mapping[str, str], answer: str, templates: Sequence[str]
) -> Callable[[Random, Split], Exchange]:
    """Make a skill from a table of facts.

    Args:
        skill: Its name.
        table: Argument to value.
        answer: The answer's wording with ``{key}`` and ``{value}``.
        templates: The question's wordings.

    Returns:
        A function that makes one exchange of a given split.
    """
    keys, values = tuple(table), tuple(dict.fromkeys(table.values()))

    def make(rng: Random, split: Split) -> Exchange:
        key, question = draw_question(rng, split, skill, templates, keys)
        right, other = table[key], _other(rng, values, table[key])
        sentence = facts.capitalised(answer.format(key=key, value=right))
        return Exchange(skill, question, sentence, facts.capitalised(answer.format(key=key, value=other)))

    return make


capital = table_skill(
    "capital",
    facts.CAPITALS,
    "the capital of {key} is {value}.",
    (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.",
        "Name the capital of {}.",
        "Do you know the capital of {}?",
        "I forgot the capital of {}.",
    ),
)
colour = table_skill(
    "colour",
    facts.COLOURS,
    "{key} is {value}.",
    (
        "What colour is {}?",
        "Tell me the colour of {}.",
        "Which colour does {} have?",
        "Do you know what colour {} is?",
        "Name the colour of {}.",
        "What is the colour of {}?",
    ),
)
sound = table_skill(
    "sound",
    facts.SOUNDS,
    "{key} says {value}.",
    (
        "What does {} say?",
        "Which sound does {} make?",
        "What sound does {} make?",
        "Tell me what {} says.",
        "Do you know what {} says?",
        "Name the sound of {}.",
    ),
)
opposite = table_skill(
    "opposite",
    facts.OPPOSITES,
    "the opposite of {key} is {value}.",
    (
        "What is the opposite of {}?",
        "Tell me the opposite of {}.",
        "Name the opposite of {}.",
        "Which word is the opposite of {}?",
        "Do you know the opposite of {}?",
        "Give me the opposite of {}.",
    ),
)
category = table_skill(
    "category",
    facts.KINDS,
    "{key} is {value}.",
    (
        "What kind of thing is {}?",
        "What is {}?",
        "Tell me what {} is.",
        "Do you know what {} is?",
        "Can you say what {} is?",
        "Explain what {} is.",
    ),
)


def _order_table() -> dict[str, str]:
    """Return ``{"after Monday": "Tuesday", "before Tuesday": "Monday", ...}``, months and numbers too."""
    table: dict[str, str] = {}
    for sequence in (facts.DAYS, facts.MONTHS, facts.COUNTING):
        for first, second in pairwise(sequence):
            table["after " + first] = second
            table["before " + second] = first
    return table


order = table_skill(
    "order",
    _order_table(),
    "{key} comes {value}.",
    (
        "What comes {}?",
        "Tell me what comes {}.",
        "Do you know what comes {}?",
        "Name what comes {}.",
        "Which one comes {}?",
        "Can you say what comes {}?",
    ),
)
howto = table_skill(
    "howto",
    facts.HOW_TO,
    "{value}",
    (
        "How do I {}?",
        "How can I {}?",
        "Tell me how to {}.",
        "What should I do to {}?",
        "I want to know how to {}.",
        "Please explain how to {}.",
    ),
)

ADDITIONS = {f"{a} plus {b}": f"{a + b}" for a in range(1, 10) for b in range(1, 11 - a)}
SUBTRACTIONS = {f"{a} minus {b}": f"{a - b}" for a in range(1, 11) for b in range(1, a)}
_SUMS = (
    "What is {}?",
    "How much is {}?",
    "Tell me what {} is.",
    "Work out {}.",
    "Can you work out {}?",
    "Please work out {}.",
)
add = table_skill("add", ADDITIONS, "{key} is {value}.", _SUMS)
subtract = table_skill("subtract", SUBTRACTIONS, "{key} is {value}.", _SUMS)


def compare(rng: Random, split: Split) -> Exchange:
    """Ask which of two digits is larger.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = (
        "Which is larger, {}?",
        "Which number is larger, {}?",
        "Tell me which is larger, {}.",
        "What is more, {}?",
        "Find the larger number: {}.",
    )
    args = tuple(f"{a} or {b}" for a in range(1, 10) for b in range(1, 10) if a != b)
    arg, question = draw_question(rng, split, "compare", templates, args)
    low, high = sorted((arg[0], arg[-1]))
    return Exchange("compare", question, f"{high} is larger than {low}.", f"{low} is larger than {high}.")


def yesno(rng: Random, split: Split) -> Exchange:
    """Ask whether somebody or something can do a thing; as many can as cannot.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = (
        "Can {}?",
        "Tell me, can {}?",
        "I wonder, can {}?",
        "Do you know, can {}?",
        "What do you think, can {}?",
        "Please say, can {}?",
    )
    arg, question = draw_question(rng, split, "yesno", templates, tuple(facts.ABILITIES))
    who, verb = arg.rsplit(" ", 1)
    answers = [f"Yes, {who} can {verb}.", f"No, {who} can't {verb}."]
    if facts.ABILITIES[arg] == "no":
        answers.reverse()
    return Exchange("yesno", question, *answers)
