"""Row shapes: which columns a row has, and how it becomes a dialogue or a preference.

A shape is one entry of ``SHAPES``: a name, the columns it needs, and a converter. To teach the program a new
shape, add an entry; the first one whose columns are all there is taken, so put what needs more columns first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rlhfcli.data.dialogue import Dialogue, Origin, Preference, Turn
from rlhfcli.data.turns import RowProblem, is_transcript, split_transcript, text_of, turn_of, turns_of
from rlhfcli.errors import DataError

Row = Mapping[str, Any]
Example = Dialogue | Preference
Turns = tuple[Turn, ...]
_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Shape:
    """One way to write a row.

    Args:
        name: What a recipe's ``format`` calls it.
        needs: Columns that a row must have.
        convert: Makes a dialogue or a preference of such a row.
        families: Wider names that a recipe may use as well.
    """

    name: str
    needs: tuple[str, ...]
    convert: Callable[[Row, Origin], Example]
    families: tuple[str, ...] = ()


# --- whole dialogues ----------------------------------------------------------------------------------------


def _dialogue(turns: Turns, origin: Origin) -> Dialogue:
    if not any(turn.role == "assistant" for turn in turns):
        raise RowProblem("no turn is the assistant's: there is nothing to learn")
    if next(turn.role for turn in turns if turn.role != "system") == "assistant":
        raise RowProblem("the assistant speaks first: there is no prompt")
    return Dialogue(turns, origin)


def _with_system(row: Row, turns: Turns) -> Turns:
    """Put the text of a ``system`` column in front, unless the dialogue has one."""
    system = row.get("system", row.get("system_prompt"))
    if not isinstance(system, str) or not system.strip() or turns[0].role == "system":
        return turns
    return (Turn("system", system), *turns)


def _from_messages(column: str) -> Callable[[Row, Origin], Example]:
    def convert(row: Row, origin: Origin) -> Dialogue:
        return _dialogue(_with_system(row, turns_of(row[column], column)), origin)

    return convert


def _instruction(row: Row) -> Turns:
    """Alpaca's prompt: earlier exchanges, then the instruction with its input below it."""
    text = text_of(row["instruction"], "instruction")
    extra = row.get("input")
    if isinstance(extra, str) and extra.strip():
        text = f"{text}\n{extra}"
    history: list[Turn] = []
    for number, exchange in enumerate(row.get("history") or [], 1):
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowProblem(f"history: entry {number} is not a question with its answer")
        history.append(Turn("user", text_of(exchange[0], f"history: question {number}")))
        history.append(Turn("assistant", text_of(exchange[1], f"history: answer {number}")))
    return _with_system(row, (*history, Turn("user", text)))


def _from_alpaca(row: Row, origin: Origin) -> Dialogue:
    return _dialogue((*_instruction(row), Turn("assistant", text_of(row["output"], "output"))), origin)


def _from_answer(question: str, answer: str) -> Callable[[Row, Origin], Example]:
    def convert(row: Row, origin: Origin) -> Dialogue:
        prompt = _prompt(row, question)
        return _dialogue((*prompt, Turn("assistant", _answer(row[answer], answer))), origin)

    return convert


# --- preferences --------------------------------------------------------------------------------------------


def _prompt(row: Row, column: str) -> Turns:
    value = row[column]
    turns = split_transcript(text_of(value, column)) if isinstance(value, str) else turns_of(value, column)
    return _with_system(row, turns)


def _answer(value: Any, column: str) -> str:
    """Read an answer that is a text, one message, or a list with one message."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        turn = turn_of(value, column)
        if turn is None or turn.role != "assistant":
            raise RowProblem(f"{column} is not the assistant's turn")
        return turn.content
    text = text_of(value, column)
    if text.lstrip().startswith("Assistant:"):
        text = text_of(text.lstrip().removeprefix("Assistant:"), column)
    return text


def _preference(row: Row, origin: Origin, prompt: Turns, chosen: str, rejected: str) -> Preference:
    """Put a preference together, with what the row says beside it."""
    if prompt[-1].role == "assistant":
        raise RowProblem("the prompt ends with the assistant's turn: there is nothing to answer")
    if all(turn.role == "system" for turn in prompt):
        raise RowProblem("the prompt has no user turn")
    if chosen.strip() == rejected.strip():
        raise RowProblem("chosen and rejected are the same text")
    margin = row.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise RowProblem("margin is not a number")
    kind = row.get("kind")
    return Preference(
        prompt,
        chosen,
        rejected,
        origin,
        None if margin is None else float(margin),
        None if kind is None else str(kind),
    )


def _whole(value: Any, column: str) -> Turns:
    """Read a dialogue that ends with the answer: a list of messages, or Anthropic's text."""
    if isinstance(value, str):
        if not is_transcript(text_of(value, column)):
            raise RowProblem(f"{column} has no turns (Human: … Assistant: …), and there is no prompt column")
        return split_transcript(value)
    return turns_of(value, column)


def _from_whole_dialogues(row: Row, origin: Origin) -> Preference:
    chosen, rejected = _whole(row["chosen"], "chosen"), _whole(row["rejected"], "rejected")
    for turns, column in ((chosen, "chosen"), (rejected, "rejected")):
        if turns[-1].role != "assistant":
            raise RowProblem(f"{column} does not end with the assistant's turn")
    if chosen[:-1] != rejected[:-1]:
        raise RowProblem("chosen and rejected part before their last answer: they have no common prompt")
    if len(chosen) == 1:
        raise RowProblem("chosen and rejected have no prompt before the answer")
    return _preference(row, origin, _with_system(row, chosen[:-1]), chosen[-1].content, rejected[-1].content)


def _from_prompt_and_answers(column: str) -> Callable[[Row, Origin], Example]:
    def convert(row: Row, origin: Origin) -> Preference:
        # UltraFeedback's lists hold the prompt as well.
        if all(isinstance(row[side], list) and len(row[side]) > 1 for side in ("chosen", "rejected")):
            return _from_whole_dialogues(row, origin)
        chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
        return _preference(row, origin, _prompt(row, column), chosen, rejected)

    return convert


def _from_alpaca_pair(row: Row, origin: Origin) -> Preference:
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    return _preference(row, origin, _instruction(row), chosen, rejected)


SHAPES: tuple[Shape, ...] = (
    Shape("sharegpt_pairs", ("conversations", *_ANSWERS), _from_prompt_and_answers("conversations"),
          ("pairs", "sharegpt")),
    Shape("messages_pairs", ("messages", *_ANSWERS), _from_prompt_and_answers("messages"), ("pairs",)),
    Shape("prompt_pairs", ("prompt", *_ANSWERS), _from_prompt_and_answers("prompt"), ("pairs",)),
    Shape("question_pairs", ("question", *_ANSWERS), _from_prompt_and_answers("question"), ("pairs",)),
    Shape("alpaca_pairs", ("instruction", *_ANSWERS), _from_alpaca_pair, ("pairs", "alpaca")),
    Shape("dialogue_pairs", _ANSWERS, _from_whole_dialogues, ("pairs",)),
    Shape("messages", ("messages",), _from_messages("messages")),
    Shape("sharegpt", ("conversations",), _from_messages("conversations")),
    Shape("alpaca", ("instruction", "output"), _from_alpaca),
    Shape("prompt_response", ("prompt", "response"), _from_answer("prompt", "response")),
    Shape("prompt_completion", ("prompt", "completion"), _from_answer("prompt", "completion")),
    Shape("question_answer", ("question", "answer"), _from_answer("question", "answer")),
)  # fmt: skip


# --- choosing a shape ---------------------------------------------------------------------------------------


def named_shapes(name: str, where: str) -> tuple[Shape, ...]:
    """The shapes that a recipe's ``format`` allows.

    Args:
        name: ``auto``, the name of a shape, or of a family (``pairs``).
        where: The source, for the message.

    Returns:
        Candidates, in order.

    Raises:
        DataError: There is no such name.
    """
    if name == "auto":
        return SHAPES
    found = tuple(shape for shape in SHAPES if name == shape.name or name in shape.families)
    if found:
        return found
    known = sorted({known for shape in SHAPES for known in (shape.name, *shape.families)} | {"auto"})
    near = get_close_matches(name, known, 1)
    raise DataError(
        f"there is no format {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        where=where,
        hint=f"Formats: {', '.join(known)}.",
    )


def detect_shape(rows: Iterable[Any], candidates: tuple[Shape, ...], where: str) -> Shape:
    """Choose the shape of a file from its first rows.

    Args:
        rows: The first rows.
        candidates: From ``named_shapes``.
        where: The file, for the message.

    Returns:
        The first shape whose columns one of the rows has.

    Raises:
        DataError: None fits.
    """
    tables = [row for row in rows if isinstance(row, Mapping)]
    for row in tables:
        for shape in candidates:
            if all(column in row for column in shape.needs):
                return shape
    columns = ", ".join(map(str, tables[0])) if tables else "no columns at all"
    known = "\n".join(f"  {shape.name}: {', '.join(shape.needs)}" for shape in candidates)
    raise DataError(
        f"its rows fit no known shape; the first one has: {columns}",
        where=where,
        hint=f"Rename the columns to those of one of these shapes:\n{known}",
    )


def convert(row: Any, shape: Shape, origin: Origin) -> Example:
    """Make a dialogue or a preference of a row.

    Args:
        row: As it was read.
        shape: The shape of its file.
        origin: Where it stands.

    Returns:
        A dialogue or a preference.

    Raises:
        RowProblem: This row cannot be used; the reason is its text.
        DataError: A column is missing: the file is not what it was taken for.
    """
    if not isinstance(row, Mapping):
        raise RowProblem("the row is not an object with columns")
    missing = [column for column in shape.needs if column not in row]
    if missing:
        raise DataError(
            f"the row lacks {', '.join(missing)}; rows of the shape {shape.name} need "
            f"{', '.join(shape.needs)}, this one has {', '.join(map(str, row)) or 'no columns'}",
            where=str(origin),
            hint="Mend the row, or take it out of the file.",
        )
    return shape.convert(row, origin)
