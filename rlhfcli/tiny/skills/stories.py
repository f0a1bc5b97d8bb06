"""Stories about several people: facts about each, then questions about them."""

from __future__ import annotations

from random import Random

from rlhfcli.tiny.skills.memory import draw_favourite
from rlhfcli.tiny.skills.planner import FREE, free_skill
from rlhfcli.tiny.world.facts import FAVOURITES, PETS
from rlhfcli.tiny.world.names import draw_name


class _Person:
    """A person of a story, with one fact that is stated early and asked for later."""

    def __init__(self, rng: Random) -> None:
        self.name = draw_name(rng, "train")
        self.topic = rng.choice(("pet", "favourite", "friend"))
        self.kind = rng.choice(PETS) if self.topic == "pet" else rng.choice(tuple(FAVOURITES))
        named = self.topic != "favourite"
        self.value = draw_name(rng, "train", self.name) if named else draw_favourite(rng, self.kind, "train", "", True)

    def told(self, rng: Random) -> str:
        """Return the sentence that states the fact."""
        if self.topic == "pet":
            return rng.choice(
                (
                    f"{self.name} has a {self.kind} called {self.value}.",
                    f"The {self.kind} of {self.name} is called {self.value}.",
                )
            )
        if self.topic == "friend":
            return rng.choice(
                (
                    f"{self.name} has a friend. The name of the friend is {self.value}.",
                    f"The best friend of {self.name} is {self.value}.",
                )
            )
        return rng.choice(
            (
                f"The favourite {self.kind} of {self.name} is {self.value}.",
                f"The {self.kind} that {self.name} likes best is {self.value}.",
            )
        )

    def asked(self, rng: Random) -> str:
        """Return the question that asks for the fact, with the answer."""
        if self.topic == "pet":
            return f"What is the {self.kind} of {self.name} called? It is called {self.value}."
        if self.topic == "friend":
            return f"Who is the best friend of {self.name}? The best friend of {self.name} is {self.value}."
        return (
            f"What is the favourite {self.kind} of {self.name}? "
            f"The favourite {self.kind} of {self.name} is {self.value}."
        )


def _first_person(rng: Random) -> str:
    """Return a short speech of somebody who gives a name and repeats it."""
    name = draw_name(rng, "train")
    animal, pet = rng.choice(PETS), draw_name(rng, "train", name)
    return rng.choice(
        (
            f"I am {name}. My name is {name}. Hello, {name}! Nice to meet you, {name}!",
            f'"My name is {name}," said {name}. "Hello, {name}!" said all. "Your name is {name}."',
            f"My {animal} is called {pet}. {pet} is a nice name for a {animal}!",
            f"Many people are called {name}. {name} is my name. You can call me {name}. Your name is {name}.",
        )
    )


def story(rng: Random) -> str:
    """Write a story: facts about people, then other things, then the same facts again as questions.

    Args:
        rng: Source of randomness.

    Returns:
        The text, with a line break at its end.
    """
    people = [_Person(rng) for _ in range(rng.randint(2, 4))]
    lines = [person.told(rng) for person in people]
    for _ in range(rng.randint(0, 3)):
        lines.append(_first_person(rng) if rng.random() < 0.5 else FREE[free_skill(rng)](rng, "train").answer)
    rng.shuffle(people)
    lines.extend(person.asked(rng) for person in people)
    return rng.choice((" ", "\n")).join(lines) + "\n"
