"""RMB (2410.09893): pairs, and best-of-N lists of one best answer and two to six others, in 49 scenarios.

A pair is right if its chosen answer scores higher; a list is right if its best answer scores higher than every other
one. Both are counted for Helpfulness and for Harmlessness, over all rows of each, and the total is the mean of these
four figures. Source: the paper, and the files of github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark. No code that judges
its lists was found there: that a tie counts as wrong, and that all rows of a figure count alike, is how pairs are done.

The test reproduces ArmoRM-Llama3-8B's total from its parts: Helpfulness .636 (lists) and .787 (pairs), Harmlessness
.497 and .663, total .646.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhfcli.data.dialogues.message import read_turns
from rlhfcli.data.dialogues.turns import RowProblem, describe_type
from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, Row, Scores, text
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures, by_group, mean_of, missing, share

GOALS = ("Helpfulness", "Harmlessness")
KINDS = ("best of N", "pairs")
_SETS = frozenset({"BoN_set", "Pairwise_set"})  # folders of the repository
COLUMNS = tuple(f"{goal}, {kind}" for goal in GOALS for kind in KINDS)


class RMB(Benchmark):
    """RMB."""

    name = "rmb"
    title = "RMB"
    source = "github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark, folder RMB_dataset"
    columns = ("conversation_input", "category_path")

    def recognise(self, row: Row) -> bool:
        """Return whether a row is one of RMB: a pair or a list.

        Args:
            row: As it was read from a file.
        """
        return super().recognise(row) and ("loser_list" in row or "reject" in row)

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Choose the files: those of both sets where the folder is the whole repository.

        Args:
            files: All data files of the folder, sorted.
        """
        return [file for file in files if not _SETS.isdisjoint(file.parts)] or list(files)

    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the pair or the list of a row; the best answer comes first.

        Args:
            row: A row.
            file: Its file.

        Raises:
            RowProblem: It belongs to neither goal, or a list has no other answers.
        """
        lists = "loser_list" in row
        best, others = (row.get("bon_best"), row["loser_list"]) if lists else (row.get("chosen"), [row["reject"]])
        if not isinstance(others, list) or not others:
            what = "empty" if others == [] else f"{describe_type(others)}, not a list of answers"
            raise RowProblem(f"loser_list is {what}")
        answers = tuple(_answer(each) for each in (best, *others))
        path = text(row, "category_path").split("/")
        goal = next((goal for goal in GOALS if goal in path), None)
        if goal is None:
            raise RowProblem(f"category_path is {'/'.join(path)!r}; it names neither {' nor '.join(GOALS)}")
        group = f"{goal}, {KINDS[0] if lists else KINDS[1]}"
        name = str(row.get("bon_uid" if lists else "pair_uid", ""))
        scenario = "/".join(path[path.index(goal) + 1 :][:1])
        prompt = read_turns(row["conversation_input"], "conversation_input")
        return [Item(name, f"{group}: {scenario}", prompt, answers, group=group)]

    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute accuracy for each goal and kind, and their mean.

        Args:
            items: Pairs and lists.
            scores: Scores of the best answer and of the others of each.
        """
        marks = [float(own[0] > max(own[1:])) for own in scores]
        scenarios = by_group([item.subset for item in items], marks)
        subsets = tuple(share(name, own) for name, own in sorted(scenarios.items()))
        groups = by_group([item.group for item in items], marks, COLUMNS)
        columns = {name: share(name, own) for name, own in groups.items()}
        notes = missing(columns, COLUMNS, "columns")
        return Figures(self.name, subsets, tuple(columns.values()), totals(tuple(columns.values())), notes=notes)


def totals(columns: Sequence[Figure]) -> tuple[Figure, ...]:
    """Compute the leaderboard's total.

    Args:
        columns: Figures of both goals and both kinds.
    """
    return (mean_of("total", columns, "mean of both goals and both kinds"),)


def _answer(value: Any) -> str:
    if not isinstance(value, Mapping):
        raise RowProblem(f"an answer is {describe_type(value)}, not an object with its text")
    return text(value, "answer")
