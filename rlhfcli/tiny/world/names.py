"""Names: thousands made from syllables, some real ones, and a few with random letters.

There are too many to learn by heart: a model has to learn to copy.
"""

from __future__ import annotations

from random import Random

from rlhfcli.tiny.world.facts import CAPITALS, DAYS, MONTHS
from rlhfcli.tiny.world.split import Split, split_of


def _split(words: str) -> tuple[str, ...]:
    """Return the words of a line."""
    return tuple(words.split())


_FIRST = _split(
    "Ba Be Bo Da De Do Fa Fe Ga Go Ha He Ja Jo Ka Ke Ki Ko La Le Li Lo Lu Ma Me Mi Mo Na Ne Ni No Pa Pe Pi "
    "Ra Re Ri Ro Sa Se Si Ta Te Ti To Va Vi Wa Ya Za"
)
_SECOND = _split("ba la mi no ra ri sa ta vi lo na ni ka ro li da do ga ma mo re se ti to va za")
_END = ("", "", "", "n", "s", "l", "r", "ra", "na", "lo", "ne", "ri", "ta", "mi")

REAL_NAMES = _split(
    "Anna Tom Mia Leo Emma Paul Lisa Max Sara John Mary Peter Lucy Jack Kate Ben Laura David Julia Mark Nina "
    "Oscar Eva Adam Clara Felix Grace Henry Ida James Karl Lena Martin Nora Otto Rosa Simon Tina Victor Amy "
    "Bob Carol Dan Ella Frank George Helen Ivan Jane Kim Luke Maria Nick Olga Robert Sophie Thomas Alice "
    "Andrew Brian Charlie Daniel Emily Fred Hannah Jacob Kevin Linda Michael Oliver Rachel Steven William"
)

_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiouy"
_TAKEN = frozenset((*CAPITALS, *CAPITALS.values(), *DAYS, *MONTHS))


def _odd_name(rng: Random) -> str:
    """Make a name letter by letter, so that copying works for any spelling."""
    letters = [
        rng.choice(_VOWELS if position % 2 else _CONSONANTS) if rng.random() < 0.8 else rng.choice(_CONSONANTS)
        for position in range(rng.randint(3, 7))
    ]
    return "".join(letters).capitalize()


def _any_name(rng: Random) -> str:
    """Draw a name of either split."""
    draw = rng.random()
    if draw < 0.12:
        return rng.choice(REAL_NAMES)
    if draw < 0.25:
        return _odd_name(rng)
    return rng.choice(_FIRST) + rng.choice(_SECOND) + rng.choice(_END)


def name_split(name: str) -> Split:
    """Assign a name to training or test.

    Args:
        name: The name.

    Returns:
        ``"train"`` or ``"test"``; a test name occurs in no training text.
    """
    return split_of("name|" + name)


def draw_name(rng: Random, split: Split, avoid: str = "") -> str:
    """Draw a name of the training or the test set.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
        avoid: A name that is not drawn.

    Returns:
        The name, for example ``"Mirano"``.
    """
    while True:
        name = _any_name(rng)
        if name != avoid and name not in _TAKEN and name_split(name) == split:
            return name
