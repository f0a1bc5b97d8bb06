"""The facts that a user states in a conversation, and the skills that state and recall them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.facts import FAVOURITES, PETS
from rlhfcli.tiny.world.names import draw_name
from rlhfcli.tiny.world.split import Split, split_of

_MADE_UP_SHARE = 0.3
NO_NAME = "I don't know your name yet."


@dataclass
class Memory:
    """The facts that the user has stated: the name, favourites by kind, pets' names by animal.

    ``reading`` marks text for pre-training, which leaves out some favourites and the harmful "How do I ...?": these
    are learnt in fine-tuning. ``asks_known`` is the share of questions about favourites and pets that ask for a stated
    one, if there is any.
    """

    name: str = ""
    favourites: dict[str, str] = field(default_factory=dict)
    pets: dict[str, str] = field(default_factory=dict)
    reading: bool = False
    asks_known: float = 0.9


MemorySkill = Callable[[Random, Memory, Split], Exchange]


def favourite_split(kind: str, value: str) -> Split:
    """Assign a common favourite, for example "favourite drink: tea", to training or test.

    Args:
        kind: For example ``"drink"``.
        value: For example ``"tea"``.

    Returns:
        ``"test"`` for those that the pre-training text leaves out and that dialogues state in one wording only; tests
        use the other wordings.
    """
    return split_of(f"favourite|{kind}|{value}")


def draw_favourite(rng: Random, kind: str, split: Split, avoid: str = "", reading: bool = False) -> str:
    """Draw a favourite thing of a kind: a common one, or a made-up word that can only be copied.

    Args:
        rng: Source of randomness.
        kind: A key of ``FAVOURITES``.
        split: ``train`` or ``test``.
        avoid: A value that is not drawn.
        reading: Leave out the favourites that are held out from pre-training.

    Returns:
        The value.
    """
    everything = split == "train" and not reading
    values = [v for v in FAVOURITES[kind] if (everything or favourite_split(kind, v) == split) and v != avoid]
    if values and rng.random() > _MADE_UP_SHARE:
        return rng.choice(values)
    name = draw_name(rng, split, avoid)
    return name.lower() if FAVOURITES[kind] else name


def tell_name(rng: Random, memory: Memory, split: Split) -> Exchange:
    """State the user's name.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    memory.name = draw_name(rng, split)
    template = rng.choice(
        (
            "My name is {}.",
            "My name is {}.",
            "I am {}.",
            "I'm called {}.",
            "Hello, my name is {}.",
            "You can call me {}.",
            "Hi, I am {}.",
            "People call me {}.",
        )
    )
    right, wrong = (
        f"Nice to meet you, {memory.name}!",
        f"Nice to meet you, {draw_name(rng, split, memory.name)}!",
    )
    return Exchange("tell_name", template.format(memory.name), right, wrong)


_FAVOURITE_WORDINGS = (
    "My favourite {0} is {1}.",
    "My favourite {0} is {1}.",
    "The {0} I like best is {1}.",
    "I think my favourite {0} is {1}.",
    "Remember that my favourite {0} is {1}.",
)


def tell_favourite(rng: Random, memory: Memory, split: Split) -> Exchange:
    """State a favourite thing.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    kind = rng.choice(tuple(FAVOURITES))
    value = draw_favourite(rng, kind, split, memory.favourites.get(kind, ""), memory.reading)
    memory.favourites[kind] = value
    wording = rng.randrange(len(_FAVOURITE_WORDINGS))
    if value in FAVOURITES[kind] and favourite_split(kind, value) == "test":
        wording = 0 if split == "train" else max(wording, 2)
    right = f"I see, your favourite {kind} is {value}."
    wrong = f"I see, your favourite {kind} is {draw_favourite(rng, kind, split, value, memory.reading)}."
    return Exchange("tell_favourite", _FAVOURITE_WORDINGS[wording].format(kind, value), right, wrong)


def tell_pet(rng: Random, memory: Memory, split: Split) -> Exchange:
    """State the name of a pet.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    animal = rng.choice(PETS)
    name = memory.pets[animal] = draw_name(rng, split, memory.name)
    template = rng.choice(("My {0} is called {1}.", "I have a {0} called {1}.", "The name of my {0} is {1}."))
    right = f"{name} is a nice name for a {animal}!"
    wrong = f"{draw_name(rng, split, name)} is a nice name for a {animal}!"
    return Exchange("tell_pet", template.format(animal, name), right, wrong)


def recall_name(rng: Random, memory: Memory, split: Split) -> Exchange:
    """Ask for the user's own name, which may or may not have been given.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    question = rng.choice(
        (
            "What is my name?",
            "What is my name?",
            "Do you remember my name?",
            "Tell me my name.",
            "Can you tell me my name?",
            "What am I called?",
            "Do you know my name?",
        )
    )
    if not memory.name:
        return Exchange("recall_name", question, NO_NAME, f"Your name is {draw_name(rng, split)}.")
    wrong = NO_NAME if rng.random() < 0.4 else f"Your name is {_wrong_name(rng, memory, split)}."
    return Exchange("recall_name", question, f"Your name is {memory.name}.", wrong)


def use_name(rng: Random, memory: Memory, split: Split) -> Exchange:
    """Ask for a greeting that uses the name.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    question = rng.choice(
        (
            "Say hello to me by name.",
            "Greet me by my name.",
            "Use my name to greet me.",
            "Please greet me by name.",
        )
    )
    if not memory.name:
        return Exchange("use_name", question, NO_NAME, f"Hello, {draw_name(rng, split)}!")
    wrong = NO_NAME if rng.random() < 0.4 else f"Hello, {_wrong_name(rng, memory, split)}!"
    return Exchange("use_name", question, f"Hello, {memory.name}!", wrong)


def recall_favourite(rng: Random, memory: Memory, split: Split) -> Exchange:
    """Ask for a favourite thing, stated earlier or not.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    told = list(memory.favourites)
    kind = rng.choice(told) if told and rng.random() < memory.asks_known else rng.choice(tuple(FAVOURITES))
    question = rng.choice(
        (
            "What is my favourite {}?",
            "What is my favourite {}?",
            "Do you remember my favourite {}?",
            "Tell me my favourite {}.",
            "Which {} do I like best?",
        )
    ).format(kind)
    right, missing = memory.favourites.get(kind, ""), f"I don't know your favourite {kind} yet."
    if not right:
        return Exchange(
            "recall_favourite",
            question,
            missing,
            f"Your favourite {kind} is {draw_favourite(rng, kind, split, reading=memory.reading)}.",
        )
    other = f"Your favourite {kind} is {draw_favourite(rng, kind, split, right, memory.reading)}."
    wrong = missing if rng.random() < 0.5 else other
    return Exchange("recall_favourite", question, f"Your favourite {kind} is {right}.", wrong)


def recall_pet(rng: Random, memory: Memory, split: Split) -> Exchange:
    """Ask for the name of a pet, stated earlier or not.

    Args:
        rng: Source of randomness.
        memory: Facts stated so far.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    told = list(memory.pets)
    animal = rng.choice(told) if told and rng.random() < memory.asks_known else rng.choice(PETS)
    question = rng.choice(
        (
            "What is my {} called?",
            "What is the name of my {}?",
            "Do you remember the name of my {}?",
            "Tell me the name of my {}.",
        )
    ).format(animal)
    right, missing = memory.pets.get(animal, ""), f"I don't know the name of your {animal} yet."
    if not right:
        return Exchange("recall_pet", question, missing, f"Your {animal} is called {draw_name(rng, split)}.")
    others = [name for name in (memory.name, *memory.pets.values()) if name and name != right]
    other = rng.choice(others) if others and rng.random() < 0.5 else draw_name(rng, split, right)
    wrong = missing if rng.random() < 0.5 else f"Your {animal} is called {other}."
    return Exchange("recall_pet", question, f"Your {animal} is called {right}.", wrong)


def _wrong_name(rng: Random, memory: Memory, split: Split) -> str:
    """Draw a name that is not the user's; where a pet's name was told, often that one."""
    others = [name for name in memory.pets.values() if name != memory.name]
    if others and rng.random() < 0.5:
        return rng.choice(others)
    return draw_name(rng, split, memory.name)


TELL: dict[str, MemorySkill] = {
    "tell_name": tell_name,
    "tell_favourite": tell_favourite,
    "tell_pet": tell_pet,
}
RECALL: dict[str, MemorySkill] = {
    "recall_name": recall_name,
    "recall_favourite": recall_favourite,
    "recall_pet": recall_pet,
    "use_name": use_name,
}


def knows(memory: Memory, skill: str) -> bool:
    """Return whether a recall skill has something to recall.

    Args:
        memory: Facts stated so far.
        skill: A key of ``RECALL``.

    Returns:
        True if the answer is not "I don't know ... yet."
    """
    return bool({"recall_favourite": memory.favourites, "recall_pet": memory.pets}.get(skill, memory.name))
