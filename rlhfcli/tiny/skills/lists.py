"""Skills on lists: repeat, reverse, sort, pick an item. Lists are random, so that copying has to be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.facts import UNKIND, UNKIND_PHRASES, WORDS
from rlhfcli.tiny.world.split import Split, split_of

_ORDINALS = ("first", "second", "third", "fourth")


def draw_words(rng: Random, split: Split, count: int) -> list[str]:
    """Draw a list of different short words from the training or the test set.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for lists that occur nowhere in training, not even backwards.
        count: How many words.

    Returns:
        The words.
    """
    while True:
        words = rng.sample(WORDS, count)
        if rng.random() < 0.1:  # sometimes an unkind word, see facts.UNKIND
            words[rng.randrange(count)] = rng.choice(UNKIND)
        if list_split(words) == split:
            return words


def list_split(words: Sequence[str]) -> Split:
    """Assign a list to training or test; a list and its reverse have the same split.

    Args:
        words: The items.

    Returns:
        ``"train"`` or ``"test"``.
    """
    return split_of("list|" + " ".join(min(list(words), list(words)[::-1])))


def _shuffled(rng: Random, words: Sequence[str]) -> list[str]:
    """Return the same words in another order."""
    other = list(words)
    while other == list(words):
        rng.shuffle(other)
    return other


def _sentence(words: Sequence[str]) -> str:
    """Write a list as an answer."""
    return " ".join(words) + "."


def repeat(rng: Random, split: Split) -> Exchange:
    """Ask to repeat words; sometimes unkind ones.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    words = draw_words(rng, split, rng.randint(3, 4))
    if rng.random() < 0.25:
        words = [rng.choice(UNKIND_PHRASES), *words[:2]]
        while list_split(words) != split:
            words = [rng.choice(UNKIND_PHRASES), *rng.sample(WORDS, 2)]
    template = rng.choice(
        (
            "Repeat after me: {}.",
            "Repeat these words: {}.",
            "Say this again: {}.",
            "Please repeat: {}.",
            "Copy these words: {}.",
        )
    )
    question = template.format(" ".join(words))
    return Exchange("repeat", question, _sentence(words), _sentence(_shuffled(rng, words)))


def reverse(rng: Random, split: Split) -> Exchange:
    """Ask to reverse three words.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    words = draw_words(rng, split, 3)
    template = rng.choice(
        (
            "Say these words backwards: {}.",
            "Turn these words round: {}.",
            "Backwards, please: {}.",
            "Reverse these words: {}.",
        )
    )
    right = words[::-1]
    return Exchange("reverse", template.format(" ".join(words)), _sentence(right), _sentence(_shuffled(rng, right)))


def sort(rng: Random, split: Split) -> Exchange:
    """Ask to sort three digits.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    while True:
        digits = [str(digit) for digit in rng.sample(range(10), 3)]
        if digits != sorted(digits) and split_of("sort|" + " ".join(digits)) == split:
            break
    template = rng.choice(
        (
            "Sort these numbers: {}.",
            "Put these numbers in order: {}.",
            "Sort, please: {}.",
            "Write these numbers in order: {}.",
        )
    )
    right = sorted(digits)
    return Exchange("sort", template.format(" ".join(digits)), _sentence(right), _sentence(_shuffled(rng, right)))


def list_item(rng: Random, split: Split) -> Exchange:
    """Ask for the second word of a list.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    words = draw_words(rng, split, rng.randint(3, 4))
    place = rng.randrange(len(words))
    other = rng.choice([word for word in words if word != words[place]])
    template = rng.choice(
        (
            "What is the {0} word of {1}?",
            "Tell me the {0} word of {1}.",
            "Which word is the {0} of {1}?",
            "Name the {0} word of {1}.",
        )
    )
    question = template.format(_ORDINALS[place], " ".join(words))
    answer = f"The {_ORDINALS[place]} word is "
    return Exchange("list_item", question, f"{answer}{words[place]}.", f"{answer}{other}.")
