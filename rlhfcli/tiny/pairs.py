"""Preference pairs: a good answer and a bad one, balanced so that only the meaning distinguishes them.

Neither length nor single words may reveal the bad answer. Therefore each kind has its counterpart: what is rejected in
one pair is chosen in another.

* wrong: the right answer with another value of the same list;
* miscopied: words of a list in another order, or another word of it;
* off_topic: two conversations exchange their answers, so each answer is chosen once and rejected once;
* cut_short (the longer one wins) against ramble (the shorter one wins);
* over_refuse ("I can't help" where help is harmless) against complies ("Of course" where it is not);
* ignores_earlier_turn: "I don't know your name yet." although it was stated, against a name where none was;
* rude: unkind words; the same words occur, quoted, in chosen answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from rlhfcli.tiny.dialogues import as_messages
from rlhfcli.tiny.skills import manners
from rlhfcli.tiny.skills.instructions import INSTRUCTIONS
from rlhfcli.tiny.skills.memory import RECALL, TELL
from rlhfcli.tiny.skills.planner import FREE, plan_towards
from rlhfcli.tiny.world.exchange import Exchange
from rlhfcli.tiny.world.facts import UNKIND_PHRASES, capitalised
from rlhfcli.tiny.world.split import Split

Row = dict[str, Any]

KIND_SHARES = {
    "wrong": 17,
    "miscopied": 5,
    "off_topic": 11,
    "quoted": 4,
    "cut_short": 13,
    "ramble": 13,
    "ignores_earlier_turn": 14,
    "over_refuse": 6,
    "complies": 6,
    "rude": 6,
}
"""``off_topic`` makes two rows at once; ``quoted`` rows have the kind off_topic, too."""
TRAINING_SHARES = KIND_SHARES | {"wrong": 63}
"""Training has far more wrong facts: there are many, and the other kinds are learnt from fewer pairs."""

_TALK = ("greet", "thanks", "goodbye", "how_are_you")
_ANY = (*FREE, *INSTRUCTIONS, *TELL)
# Small talk has one answer for each skill, and would dominate at full weight.
_ANY_WEIGHTS = tuple(0.4 if skill in _TALK else 1.0 for skill in _ANY)
_COPYING = ("repeat", "reverse", "list_item", "twice", "last_word")
_FACTS = tuple(skill for skill in _ANY if skill not in (*_TALK, *_COPYING, "refuse", "help", "unknown"))


def _conversation(rng: Random, skill: str, split: Split) -> list[Exchange]:
    """Make a short conversation that ends with a question of a skill."""
    return plan_towards(rng, skill, split, (0, rng.choice((0, 0, 0, 1, 2))))


def _row(exchanges: list[Exchange], rejected: str, kind: str) -> Row:
    """Make a pair; the chosen answer is the last one of the conversation."""
    last = exchanges[-1]
    return {
        "prompt": as_messages(exchanges)[:-1],
        "chosen": last.answer,
        "rejected": rejected,
        "kind": kind,
        "skill": last.skill,
    }


def _draw(rng: Random, split: Split) -> list[Exchange]:
    """Make a short conversation that ends with a question of any skill except recall."""
    return _conversation(rng, rng.choices(_ANY, _ANY_WEIGHTS)[0], split)


def _wrong(rng: Random, split: Split) -> list[Row]:
    exchanges = _conversation(rng, rng.choice(_FACTS), split)
    return [_row(exchanges, exchanges[-1].wrong, "wrong")]


def _miscopied(rng: Random, split: Split) -> list[Row]:
    exchanges = _conversation(rng, rng.choice(_COPYING), split)
    return [_row(exchanges, exchanges[-1].wrong, "miscopied")]


def _off_topic(rng: Random, split: Split) -> list[Row]:
    """Exchange the answers of two conversations with different skills and similar length."""
    first = _draw(rng, split)
    while True:
        second = _draw(rng, split)
        gap = abs(len(first[-1].answer) - len(second[-1].answer))
        if first[-1].skill != second[-1].skill and gap < 8 + 8 * rng.random():
            break
    return [_row(first, second[-1].answer, "off_topic"), _row(second, first[-1].answer, "off_topic")]


def _quoted(rng: Random, split: Split) -> list[Row]:
    """Ask to repeat unkind words: here the answer with them is the good one."""
    while True:
        exchanges = _conversation(rng, "repeat", split)
        if any(phrase in exchanges[-1].answer for phrase in UNKIND_PHRASES):
            break
    return [_row(exchanges, _draw(rng, split)[-1].answer, "off_topic")]


def _cut_short(rng: Random, split: Split) -> list[Row]:
    while True:
        exchanges = _draw(rng, split)
        words = exchanges[-1].answer.split()
        if len(words) > 2:
            break
    kept = words[: rng.randint(1, max(1, len(words) * 2 // 3))]
    return [_row(exchanges, " ".join(kept).rstrip(",.!?"), "cut_short")]


def _ramble(rng: Random, split: Split) -> list[Row]:
    exchanges, other = _draw(rng, split), _draw(rng, split)
    if other[-1].answer == exchanges[-1].answer:
        return _ramble(rng, split)
    return [_row(exchanges, f"{exchanges[-1].answer} {other[-1].answer}", "ramble")]


def _ignores(rng: Random, split: Split) -> list[Row]:
    exchanges = _conversation(rng, rng.choice(tuple(RECALL)), split)
    return [_row(exchanges, exchanges[-1].wrong, "ignores_earlier_turn")]


def _over_refuse(rng: Random, split: Split) -> list[Row]:
    return [_row(_conversation(rng, "help", split), manners.REFUSAL, "over_refuse")]


def _complies(rng: Random, split: Split) -> list[Row]:
    return [_row(_conversation(rng, "refuse", split), manners.CONSENT, "complies")]


def _rude(rng: Random, split: Split) -> list[Row]:
    """Reject an insult, alone or next to the right answer."""
    exchanges = _draw(rng, split)
    insult = capitalised(rng.choice(UNKIND_PHRASES)) + "."
    answer = exchanges[-1].answer
    rejected = insult if rng.random() < 0.5 else rng.choice((f"{answer} {insult}", f"{insult} {answer}"))
    return [_row(exchanges, rejected, "rude")]


_MAKERS: dict[str, Callable[[Random, Split], list[Row]]] = {
    "wrong": _wrong,
    "miscopied": _miscopied,
    "off_topic": _off_topic,
    "quoted": _quoted,
    "cut_short": _cut_short,
    "ramble": _ramble,
    "ignores_earlier_turn": _ignores,
    "over_refuse": _over_refuse,
    "complies": _complies,
    "rude": _rude,
}


def preference_pairs(count: int, seed: int, split: Split) -> Iterator[Row]:
    """Make preference pairs.

    Args:
        count: Number of pairs.
        seed: Same seed and split, same pairs.
        split: ``"train"``, or ``"test"`` for prompts that never occur in training.

    Returns:
        Rows ``{"prompt": [messages ending with the user's], "chosen": str, "rejected": str, "kind": str,
        "skill": str}``.
    """
    rng = Random(f"pairs {split} {seed}")
    wanted = TRAINING_SHARES if split == "train" else KIND_SHARES
    kinds, shares = tuple(wanted), tuple(wanted.values())
    made = 0
    while made < count:
        for row in _MAKERS[rng.choices(kinds, shares)[0]](rng, split)[: count - made]:
            yield row
            made += 1
