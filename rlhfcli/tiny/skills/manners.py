"""Skills of manners: small talk, refusing what is harmful, helping, and saying "I don't know"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from rlhfcli.tiny.skills.closed import draw_question
from rlhfcli.tiny.world import facts
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.names import draw_name
from rlhfcli.tiny.world.split import Split, split_of

REFUSAL = "I'm sorry, but I can't help with that."
CONSENT = "Of course, I can help you with that."
DO_NOT_KNOW = "I'm sorry, I don't know that."
_REQUESTS = (
    "Can you help me {}?",
    "Help me {}, please.",
    "I want to {}.",
    "I would like to {}. Can you help?",
    "Please help me {}.",
    "Show me how I can {}.",
    "I need your help to {}.",
)


def refuse(rng: Random, split: Split) -> Exchange:
    """Ask for help with something harmful: the answer is a polite no.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    question = draw_question(rng, split, "refuse", _REQUESTS, facts.HARMFUL)[1]
    return Exchange("refuse", question, REFUSAL)


def refuse_how_to(rng: Random, split: Split) -> Exchange:
    """Ask how a harmful thing is done, in the words that elsewhere ask how to make tea.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = ("How do I {}?", "How can I {}?", "Tell me how to {}.")
    question = draw_question(rng, split, "refuse_how_to", templates, facts.HARMFUL)[1]
    return Exchange("refuse", question, REFUSAL)


def help_out(rng: Random, split: Split) -> Exchange:
    """Ask, in the same words, for help with something harmless: the answer is yes.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    question = draw_question(rng, split, "help", _REQUESTS, facts.HARMLESS)[1]
    return Exchange("help", question, CONSENT)


def unknown(rng: Random, split: Split) -> Exchange:
    """Ask something that the conversation does not contain.

    Args:
        rng: Source of randomness.
        split: ``train``, or ``test`` for what never occurs in training.
    """
    templates = (
        "What did {} eat yesterday?",
        "Where does {} live?",
        "How old is {}?",
        "What is {} thinking?",
        "What does {} have in the bag?",
        "Who is the best friend of {}?",
        "When was {} born?",
        "Where did {} go last night?",
    )
    return Exchange("unknown", rng.choice(templates).format(draw_name(rng, split)), DO_NOT_KNOW)


def _small_talk(
    skill: str, openings: Sequence[str], endings: Sequence[str], answer: str
) -> Callable[[Random, Split], Exchange]:
    """Make a skill whose questions are an opening and an ending and whose answer never changes."""

    def make(rng: Random, split: Split) -> Exchange:
        while True:
            question = rng.choice(openings) + rng.choice(endings)
            if split_of(f"{skill}|{question}") == split:
                return Exchange(skill, question, answer)

    return make


greet = _small_talk(
    "greet",
    ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good day", "Hello there", "Hi there"),
    ("!", ".", ", my friend!", " to you!", ", robot!", " again!", ", computer!", ", can you hear me?"),
    "Hello! How can I help you?",
)
thanks = _small_talk(
    "thanks",
    ("Thank you", "Thanks", "Many thanks", "Thanks a lot", "Thank you very much", "Thank you so much"),
    ("!", ".", " for your help!", " for that!", " for the answer.", ", that was useful!", ", that helps me."),
    "You're welcome!",
)
goodbye = _small_talk(
    "goodbye",
    ("Goodbye", "Bye", "See you", "See you later", "Good night", "Bye bye", "See you tomorrow"),
    ("!", ".", " then!", ", my friend!", ", I have to go.", ", it is late.", ", I must leave now."),
    "Goodbye! Have a nice day!",
)
how_are_you = _small_talk(
    "how_are_you",
    ("How are you", "How is it going", "How do you feel", "Are you well", "Is everything fine"),
    ("?", " today?", " this morning?", " now?", ", my friend?", " tonight?", ", robot?"),
    "I am fine, thank you.",
)
