"""Skills that say how to answer: loudly, politely, twice, with yes or no alone.

The pre-training text contains none of them. The base model knows the answers, but words them in its own way: to follow
instructions is learnt in fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from rlhfcli.tiny.skills.closed import draw_question
from rlhfcli.tiny.skills.lists import draw_words
from rlhfcli.tiny.world import facts
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.split import Split

# question, answer, facts
_ASKED: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("what is the capital of {}?", "the capital of {} is {}", facts.CAPITALS),
    ("what colour is {}?", "{} is {}", facts.COLOURS),
    ("what does {} say?", "{} says {}", facts.SOUNDS),
    ("what is the opposite of {}?", "the opposite of {} is {}", facts.OPPOSITES),
    ("what kind of thing is {}?", "{} is {}", facts.KINDS),
)


def _fact(rng: Random, split: Split, skill: str, templates: tuple[str, ...]) -> tuple[str, str, str]:
    """Draw a question about a fact; return it with a right and a wrong answer, in lower case, without a full stop."""
    asked, words, table = rng.choice(_ASKED)
    key, question = draw_question(rng, split, skill, [each.format(asked) for each in templates], tuple(table))
    other = rng.choice([value for value in table.values() if value != table[key]])
    return question, words.format(key, table[key]), words.format(key, other)


def loudly(rng: Random, split: Split) -> Exchange:
    """Ask for a fact with an exclamation mark.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = ("Say it loudly: {}", "Shout it: {}", "Loudly, please: {}", "Cry it out: {}")
    question, right, wrong = _fact(rng, split, "loudly", templates)
    return Exchange("loudly", question, facts.capitalised(right) + "!", facts.capitalised(wrong) + "!")


def politely(rng: Random, split: Split) -> Exchange:
    """Ask for a fact in polite words.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = ("Say it politely: {}", "In polite words: {}", "Politely, please: {}", "Be polite: {}")
    question, right, wrong = _fact(rng, split, "politely", templates)
    return Exchange("politely", question, f"Of course, {right}.", f"Of course, {wrong}.")


def yes_or_no(rng: Random, split: Split) -> Exchange:
    """Ask whether somebody or something can do a thing, to be answered by yes or no alone.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = ("Yes or no: can {}?", "Only yes or no: can {}?", "Just say yes or no: can {}?", "Can {}? Yes or no?")
    arg, question = draw_question(rng, split, "yes_or_no", templates, tuple(facts.ABILITIES))
    able = facts.ABILITIES[arg] == "yes"
    return Exchange("yes_or_no", question, *(("Yes.", "No.") if able else ("No.", "Yes.")))


def twice(rng: Random, split: Split) -> Exchange:
    """Ask to repeat words twice.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    words = draw_words(rng, split, 2)
    template = rng.choice(("Say this twice: {}.", "Two times, please: {}.", "Say two times: {}.", "Twice: {}."))
    once = " ".join(words)
    return Exchange("twice", template.format(once), f"{once} {once}.", f"{once} {words[1]} {words[0]}.")


def last_word(rng: Random, split: Split) -> Exchange:
    """Ask for the last word of a list, and no other.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    words = draw_words(rng, split, rng.randint(3, 4))
    template = rng.choice(
        ("Say only the last word: {}.", "Only the last word of: {}.", "Just the last word: {}.", "The end of this: {}.")
    )
    return Exchange("last_word", template.format(" ".join(words)), f"{words[-1]}.", f"{rng.choice(words[:-1])}.")


INSTRUCTIONS: dict[str, Callable[[Random, Split], Exchange]] = {
    "loudly": loudly,
    "politely": politely,
    "yes_or_no": yes_or_no,
    "twice": twice,
    "last_word": last_word,
}
