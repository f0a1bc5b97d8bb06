r"""The test files of Anthropic's HH (2204.05862): 8,552 pairs of dialogues in four parts.

A row has two dialogues, ``\n\nHuman: … \n\nAssistant: …``, that differ in their last answer. There is no leaderboard;
the figure on model cards is the share of all pairs whose chosen dialogue scores higher. Cards differ in what they make
of equal scores: older TRL counted them as right, so that a constant model had 100 %, DeepSpeed-Chat as wrong. Here a
tie counts half, as everywhere in ``rlhf eval``. The mean of the parts is given beside it. No published row has both the
parts and the total, so the test computes a row by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.dialogue import Turn
from rlhfcli.data.dialogues.turns import RowProblem, is_transcript, split_transcript
from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, Row, Scores, text
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures, by_group, mean_of, share

PARTS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


class HH(Benchmark):
    """Anthropic's helpful and harmless pairs."""

    name = "hh"
    title = "HH's test files"
    source = "Anthropic/hh-rlhf, test.jsonl.gz of each folder"
    columns = ("chosen", "rejected")
    size = 8552
    tie_rule = "a tie counts half"

    def recognise(self, row: Row) -> bool:
        """Return whether a row is one of HH: two transcripts and nothing else.

        Args:
            row: As it was read from a file.
        """
        return set(row) == set(self.columns) and all(map(_is_dialogue, row.values()))

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Choose the files: those named test where the folder has the training files, too.

        Args:
            files: All data files of the folder, sorted.
        """
        return [file for file in files if file.name.startswith("test")] or list(files)

    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the pair of a row.

        Args:
            row: A row.
            file: Its file; its folder is named like the part.

        Raises:
            RowProblem: The dialogues do not differ in the last answer alone.
        """
        chosen, rejected = (split_transcript(text(row, key)) for key in self.columns)
        prompts = [_prompt(dialogue, key) for dialogue, key in zip((chosen, rejected), self.columns, strict=True)]
        if prompts[0] != prompts[1]:
            raise RowProblem("the dialogues differ before the last answer")
        part = next((part for part in PARTS if part in (*file.parts, file.name.split(".")[0])), "pairs")
        return [Item("", part, prompts[0], (chosen[-1].content, rejected[-1].content))]

    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute accuracy by part, over all pairs, and the mean of the parts.

        Args:
            items: Pairs.
            scores: Scores of the chosen and the rejected answer of each.
        """
        marks = [(chosen > rejected) + (chosen == rejected) / 2 for chosen, rejected in scores]
        groups = by_group([item.subset for item in items], marks, PARTS)
        parts = tuple(share(name, own) for name, own in groups.items())
        return Figures(self.name, (), parts, totals(parts, marks))


def totals(parts: Sequence[Figure], marks: Sequence[float]) -> tuple[Figure, ...]:
    """Compute the share of all pairs and the mean of the parts.

    Args:
        parts: Figures of the parts.
        marks: Marks of all pairs.
    """
    return share("total", marks, mean="share of all pairs"), mean_of("total", parts, "mean of the parts")


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and is_transcript(value)


def _prompt(dialogue: tuple[Turn, ...], key: str) -> tuple[Turn, ...]:
    if len(dialogue) < 2 or dialogue[-1].role != "assistant":
        raise RowProblem(f"{key} does not end with an answer to a question")
    return dialogue[:-1]
