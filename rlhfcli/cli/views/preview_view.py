"""Draws examples on the terminal: trained text in colour, the answers to a prompt side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhfcli.data.encoding.preview import Piece, PreviewDialogue, Previewer, PreviewPreference, spread

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhfcli.data.preparation.prepare import Prepared

_TRAINED = "green"
_TEMPLATE = "dim"
_FORK = "▸"
_BESIDE = 2  # answers that stand side by side; more stand one below the other


@dataclass(frozen=True)
class Shown:
    """An example with its place.

    Args:
        origin: File and row.
        example: To draw.
    """

    origin: str
    example: PreviewDialogue | PreviewPreference

    @property
    def title(self) -> str:
        """The phase and the place."""
        return f"{'SFT' if isinstance(self.example, PreviewDialogue) else 'reward'} · {self.origin}"


def choose(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, loss_on: str, count: int) -> list[Shown]:
    """Take some training examples of each phase.

    Args:
        prepared: The store.
        tokenizer: That it was made with.
        loss_on: ``sft.loss_on``.
        count: Dialogues, and as many preferences; fewer where there are not so many.

    Returns:
        Dialogues, then preferences.
    """
    previewer = Previewer(tokenizer, loss_on)
    shown: list[Shown] = []
    if prepared.manifest["tokens"]["sft_train"]["rows"]:
        dialogues = prepared.dialogues("train")
        shown += [Shown(dialogues.origin(k), previewer.dialogue(each)) for k, each in spread(dialogues, count)]
    if prepared.manifest["tokens"]["reward_train"]["rows"]:
        pairs = prepared.pairs("train")
        shown += [Shown(pairs.origin(k), previewer.preference(each)) for k, each in spread(pairs, count)]
    return shown


def previews(shown: Sequence[Shown], console: Console) -> RenderableType:
    """Draw examples.

    Args:
        shown: From ``choose``.
        console: Where they go; without colour, signs stand for it.

    Returns:
        For the terminal.
    """
    signs = console.color_system is None or console.no_color
    said = "⟦trained on⟧" if signs else "trained on"
    legend = Text("Examples: ", style="bold").append(said, "" if signs else _TRAINED)
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
    """Kind, margins, and of a ranking which answer is better than which.

    Args:
        preference: Of two or more answers.

    Returns:
        "kind: harmless · margin 0.5", empty where there is nothing to say.
    """
    found = [f"kind: {preference.kind}"] if preference.kind else []
    pairs = list(zip(preference.order, preference.margins, strict=True))
    if len(preference.answers) == _BESIDE:
        found += [f"margin {margin:g}" for _, margin in pairs if margin]
    else:
        told = (f"{a + 1} > {b + 1}{f' (margin {margin:g})' if margin else ''}" for (a, b), margin in pairs)
        found.append(", ".join(told))
    return " · ".join(found)


def answer_names(preference: PreviewPreference) -> list[str]:
    """What to call the answers: chosen and rejected, or numbers.

    Args:
        preference: Of two or more answers.

    Returns:
        One for each.
    """
    if len(preference.answers) == _BESIDE:
        return ["chosen", "rejected"] if preference.order[0] == (0, 1) else ["rejected", "chosen"]
    return [f"answer {number}" for number in range(1, len(preference.answers) + 1)]


def _preference(preference: PreviewPreference, signs: bool) -> list[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_lines=False)
    texts = [_answer(preference.shared, answer, signs) for answer in preference.answers]
    names = answer_names(preference)
    if len(texts) == _BESIDE:
        for name in names:
            table.add_column(Text(name, style="bold"), ratio=1, overflow="fold")
        table.add_row(*texts)
    else:
        table.add_column("answer", no_wrap=True)
        table.add_column("", ratio=1, overflow="fold")
        for name, text in zip(names, texts, strict=True):
            table.add_row(Text(name, style="bold"), text)
    told = comparisons(preference)
    return [_pieces(preference.prompt, signs), *([Text(told, style="cyan")] if told else []), table]


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
