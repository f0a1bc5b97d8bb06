"""Plain text for pre-training: no chat template, no roles, and no end token after an answer.

The documents contain what a dialogue needs (facts, copying, recall over some distance, the difference between right
and wrong) in six genres: transcripts, narrated talks, marked exercises, encyclopaedia, lists, stories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from rlhfcli.tiny.skills import closed, lists
from rlhfcli.tiny.skills.mistakes import bad_answer
from rlhfcli.tiny.skills.planner import FREE, plan
from rlhfcli.tiny.skills.stories import story
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.facts import COUNTING, DAYS, MONTHS, capitalised

_ASKERS = (
    "Pupil", "Guest", "Visitor", "Reporter", "Child", "Traveller", "Student", "Caller", "Customer",
    "Question", "Q", "First voice", "Patient",
)  # fmt: skip
_ANSWERERS = (
    "Teacher", "Host", "Guide", "Clerk", "Robot", "Librarian", "Machine", "Waiter", "Answer", "A",
    "Second voice", "Doctor",
)  # fmt: skip
_CLOSINGS = (
    "That was all for today.", "The end.", "Here the notes stop.", "More of this on the next page.",
    "So much for now.", "The rest was lost.", "Then the bell rang.", "They went home.",
    "It was late by then.", "This page is full.", "A human wrote this down.",
    "The assistant of the teacher wrote this down.",
)  # fmt: skip
_OPENINGS = (
    "", "", "", "A talk on {day}.", "Notes from {month}.", "Page {number}.", "Recorded on {day}.",
    "An old talk, number {number}.", "Human beings like to ask.", "Assistant teachers use this page.",
)  # fmt: skip


def _opening(rng: Random) -> str:
    """Return a first line, often an empty one."""
    line = rng.choice(_OPENINGS).format(day=rng.choice(DAYS), month=rng.choice(MONTHS), number=rng.choice(COUNTING))
    return line + rng.choice(("\n", "\n\n")) if line else ""


def _conversation(rng: Random, longest: int = 8) -> list[Exchange]:
    """Plan a conversation of two turns or more; some are long, so that late positions are trained, too."""
    if rng.random() < 0.08:
        return plan(rng, rng.randint(9, 16), "train", reading=True)
    return plan(rng, rng.randint(2, longest), "train", reading=True)


def _transcript(rng: Random) -> str:
    """Write a conversation as a play: a label before each line."""
    asker, answerer = rng.choice(_ASKERS), rng.choice(_ANSWERERS)
    gap, pause = rng.choice(("\n", "\n", "\n\n")), rng.choice(("\n", "\n", "\n\n"))
    mark = rng.choice((":", ":", ":", " -", " said:"))
    return "".join(f"{asker}{mark} {e.question}{gap}{answerer}{mark} {e.answer}{pause}" for e in _conversation(rng))


def _bare(rng: Random) -> str:
    """Write a conversation as lines without speakers."""
    first, gap, second, pause = rng.choice(
        (
            ("", "\n", "", "\n"),
            ("", " ", "", "\n"),
            ("- ", "\n- ", "", "\n"),
            ("* ", " ", "", "\n"),
            ("", "\n", "", "\n\n"),
            ('"', '" "', "", '"\n'),
            ("> ", "\n", "", "\n"),
        )
    )
    return "".join(f"{first}{e.question}{gap}{second}{e.answer}{pause}" for e in _conversation(rng))


_ASKED = (
    '"{q}" asked {a}. "{r}" said {b}. ',
    '{a} asked: "{q}" {b} answered: "{r}" ',
    '"{q}" said {a}. {b} said: "{r}" ',
    'Then {a} said: "{q}" And {b} said: "{r}" ',
)


def _narrated(rng: Random) -> str:
    """Write a conversation as a tale with quotes; the speakers are the girl, the man and so on."""
    asker, answerer = rng.sample(("the girl", "the boy", "the man", "the woman", "the king", "the old lady"), 2)
    style = rng.choice(_ASKED)
    parts = []
    for exchange in _conversation(rng, 6):
        style = style if rng.random() < 0.7 else rng.choice(_ASKED)
        parts.append(capitalised(style.format(q=exchange.question, r=exchange.answer, a=asker, b=answerer)))
    return "".join(parts).rstrip() + "\n"


_MARKS = (
    ("Right.", "Wrong."),
    ("That is right.", "That is wrong."),
    ("(true)", "(false)"),
    ("Good.", "Bad."),
)


def _with_marks(rng: Random, exchanges: list[Exchange]) -> str:
    """Write exercises with their answers, half of them wrong, and a mark after each."""
    good, bad = rng.choice(_MARKS)
    before, between = rng.choice((("", "\n"), ("Question: ", "\nAnswer: "), ("", " "), ("Pupil: ", "\nTeacher: ")))
    corrected = rng.random() < 0.4
    lines = []
    for exchange in exchanges:
        if rng.random() < 0.5:
            lines.append(f"{before}{exchange.question}{between}{exchange.answer} {good}\n")
            continue
        line = f"{before}{exchange.question}{between}{bad_answer(rng, exchange, 'train')} {bad}"
        lines.append(f"{line} {exchange.answer}\n" if corrected else line + "\n")
    return "".join(lines)


def _marked(rng: Random) -> str:
    """Write a conversation that a teacher has marked, which teaches to distinguish right from wrong."""
    return _with_marks(rng, _conversation(rng, 6))


def _fact(rng: Random) -> str:
    """Return one sentence of an encyclopaedia."""
    skill = rng.choice(
        (
            "capital",
            "colour",
            "sound",
            "opposite",
            "category",
            "order",
            "yesno",
            "howto",
            "add",
            "subtract",
            "compare",
        )
    )
    exchange = FREE[skill](rng, "train")
    if skill == "howto":
        return f"{exchange.question} {exchange.answer}"
    if skill == "capital" and rng.random() < 0.4:
        country, city = exchange.answer[len("The capital of ") : -1].split(" is ")
        return rng.choice((f"{city} is the capital of {country}.", f"{country} has the capital {city}."))
    return exchange.answer


def _encyclopaedia(rng: Random) -> str:
    """Write a sequence of facts."""
    pause = rng.choice((" ", "\n"))
    return pause.join(_fact(rng) for _ in range(rng.randint(4, 12))) + "\n"


def _list_page(rng: Random) -> str:
    """Write lists, each with some of its forms: repeated, reversed, item by item."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        words = lists.draw_words(rng, "train", rng.randint(3, 4))
        forms = [
            "List: " + " ".join(words) + ".",
            "Again: " + " ".join(words) + ".",
            "Backwards: " + " ".join(words[::-1]) + ".",
            *(
                f"The {place} word is {word}."
                for place, word in zip(("first", "second", "third", "fourth"), words, strict=False)
            ),
        ]
        lines.append(" ".join([forms[0], *rng.sample(forms[1:], rng.randint(2, len(forms) - 1))]))
    return "\n".join(lines) + "\n"


def _sums_page(rng: Random) -> str:
    """Write a table of sums: one number with all that may be added or taken away."""
    lines = []
    for _ in range(rng.randint(2, 3)):
        table = rng.choice((closed.ADDITIONS, closed.SUBTRACTIONS))
        number, place = str(rng.randint(1, 9)), rng.choice((0, -1))
        sums = [f"{key} is {value}." for key, value in table.items() if key.split()[place] == number]
        if rng.random() < 0.5:
            rng.shuffle(sums)
        lines.append(" ".join(sums))
    return "\n".join(lines) + "\n"


_DRILLED = (
    "yesno", "add", "subtract", "compare", "order", "sort", "reverse", "list_item", "repeat",
    "capital", "colour", "sound", "opposite", "category",
)  # fmt: skip


def _drill(rng: Random) -> str:
    """Write many exercises of one skill, half of the pages with marks."""
    skill, gap = FREE[rng.choice(_DRILLED)], rng.choice((" ", "\n"))
    exchanges = [skill(rng, "train") for _ in range(rng.randint(4, 8))]
    if rng.random() < 0.5:
        return _with_marks(rng, exchanges)
    return "".join(f"{e.question}{gap}{e.answer}\n" for e in exchanges)


_GENRES: tuple[Callable[[Random], str], ...] = (
    _transcript,
    _bare,
    _narrated,
    _marked,
    _encyclopaedia,
    _list_page,
    _drill,
    _sums_page,
    story,
)
_SHARES = (24, 10, 9, 18, 5, 5, 16, 3, 10)


def plain_text(count: int, seed: int) -> Iterator[str]:
    """Make documents for pre-training.

    Args:
        count: Number of documents.
        seed: Same seed, same documents.

    Returns:
        The documents. None ends with an answer: a closing line always follows, so that the base model does not learn
        to stop after an answer.
    """
    rng = Random(f"plain text {seed}")
    for _ in range(count):
        genre = rng.choices(_GENRES, _SHARES)[0]
        yield _opening(rng) + genre(rng) + rng.choice(_CLOSINGS)
