"""Draws examples on the terminal: trained text in colour, the answers to a prompt side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhfcli.data.encoding.preview import Piece, PreviewDialogue, Previewer, PreviewPreference, choose_evenly

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhfcli.data.preparation.prepare import DataStore

_TRAINED = "green"
_TEMPLATE = "dim"
_FORK = "▸"
_SIDE_BY_SIDE = 2  # number of answers up to which they are drawn side by side


@dataclass(frozen=True)
class Shown:
    """An example and its origin.

    Args:
        origin: File and row.
        example: The example.
    """

    origin: str
    example: PreviewDialogue | PreviewPreference

    @property
    def title(self) -> str:
        """The phase and the origin."""
        return f"{'SFT' if isinstance(self.example, PreviewDialogue) else 'reward'} · {self.origin}"


def choose(prepared: DataStore, tokenizer: PreTrainedTokenizerBase, loss_on: str, count: int) -> list[Shown]:
    """Choose training examples of each phase, spread over the data.

    Args:
        prepared: The prepared data.
        tokenizer: Tokenizer that it was encoded with.
        loss_on: ``sft.loss_on``.
        count: Number of dialogues, and of preferences; fewer where there are fewer.

    Returns:
        Dialogues, then preferences.
    """
    previewer = Previewer(tokenizer, loss_on)
    shown: list[Shown] = []
    if prepared.manifest["tokens"]["sft_train"]["rows"]:
        dialogues = prepared.dialogues("train")
        shown += [Shown(dialogues.origin(k), previewer.dialogue(each)) for k, each in choose_evenly(dialogues, count)]
    if prepared.manifest["tokens"]["reward_train"]["rows"]:
        pairs = prepared.pairs("train")
        shown += [Shown(pairs.origin(k), previewer.preference(each)) for k, each in choose_evenly(pairs, count)]
    return shown


def previews(shown: Sequence[Shown], console: Console) -> RenderableType:
    """Draw examples.

    Args:
        shown: As returned by ``choose``.
        console: The console for which they are drawn; without colour, signs mark the trained text.
    """
    signs = console.color_system is None or console.no_color
    trained = "⟦trained on⟧" if signs else "trained on"
    legend = Text("Examples: ", style="bold").append(trained, "" if signs else _TRAINED)
    legend.append(", ").append("words of the template", "" if signs else _TEMPLATE)
    legend.append(f", {_FORK} where the answers part")
    parts: list[RenderableType] = [Text(), legend]
    for each in shown:
        parts += [Text(), Text(each.title, style="bold", overflow="fold")]
        if isinstance(each.example, PreviewDialogue):
            parts.append(_pieces(each.example.pieces, signs))
        else:
            parts += _preference(each.example, signs)
    return Group(*parts)


def comparisons(preference: PreviewPreference) -> str:
    """Describe the kind, the margins, and the order of a ranking's answers.

    Args:
        preference: Two or more answers.

    Returns:
        "kind: harmless · margin 0.5"; empty if there is nothing to describe.
    """
    found = [f"kind: {preference.kind}"] if preference.kind else []
    pairs = list(zip(preference.order, preference.margins, strict=True))
    if len(preference.answers) == _SIDE_BY_SIDE:
        found += [f"margin {margin:g}" for _, margin in pairs if margin]
    else:
        order = (f"{a + 1} > {b + 1}{f' (margin {margin:g})' if margin else ''}" for (a, b), margin in pairs)
        found.append(", ".join(order))
    return " · ".join(found)


def answer_names(preference: PreviewPreference) -> list[str]:
    """Name the answers: chosen and rejected, or by number.

    Args:
        preference: Two or more answers.

    Returns:
        One name for each answer.
    """
    if len(preference.answers) == _SIDE_BY_SIDE:
        return ["chosen", "rejected"] if preference.order[0] == (0, 1) else ["rejected", "chosen"]
    return [f"answer {number}" for number in range(1, len(preference.answers) + 1)]


def _preference(preference: PreviewPreference, signs: bool) -> list[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_lines=False)
    texts = [_answer(preference.shared, answer, signs) for answer in preference.answers]
    names = answer_names(preference)
    if len(texts) == _SIDE_BY_SIDE:
        for name in names:
            table.add_column(Text(name, style="bold"), ratio=1, overflow="fold")
        table.add_row(*texts)
    else:
        table.add_column("answer", no_wrap=True)
        table.add_column("", ratio=1, overflow="fold")
        for name, text in zip(names, texts, strict=True):
            table.add_row(Text(name, style="bold"), text)
    about = comparisons(preference)
    return [_pieces(preference.prompt, signs), *([Text(about, style="cyan")] if about else []), table]


def _answer(shared: str, rest: str, signs: bool) -> Text:
    text = Text(overflow="fold").append(shared, "" if signs else _TEMPLATE)
    return text.append(_FORK, "" if signs else "bold yellow").append(rest)


def _pieces(pieces: Sequence[Piece], signs: bool) -> Text:
    text = Text(overflow="fold")
    for piece in pieces:
        if signs:
            text.append(f"⟦{piece.text}⟧" if piece.trained else piece.text)
        else:
            style = _TEMPLATE if piece.template else ""
            text.append(piece.text, f"{style} {_TRAINED}" if piece.trained else style)
    return text
