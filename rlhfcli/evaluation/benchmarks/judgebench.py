"""JudgeBench (2410.12784): pairs of answers by one model, of which one is objectively right.

A reward model decides ``A>B`` if A scores higher, else ``B>A``; so of two equal scores B wins, and a constant model
gets the share of pairs whose second answer is right. The total is the share of all pairs; Skywork-Reward-V2's paper
gives the mean of the four categories instead, which is the second total here. Published rows are of the 350 pairs that
GPT-4o answered; the 270 of Claude 3.5 Sonnet are another half and are never mixed with them. Source: ``judges.py`` and
``metrics.py`` of github.com/ScalerLab/JudgeBench.

The test reproduces, from counts, Skywork-Reward-Gemma-2-27B: 59.74, 66.33, 83.93, 50.00, total 64.29; and three others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, Row, Scores, text, user
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures, by_group, mean_of, missing, share

CATEGORIES = ("Knowledge", "Reasoning", "Math", "Coding")
_CATEGORY_OF = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
"""Category by the beginning of a pair's source."""
_SIZES = (350, 270)  # pairs of GPT-4o's half and of Claude's
_RIGHT = {"A>B": 0, "B>A": 1}


class JudgeBench(Benchmark):
    """JudgeBench."""

    name = "judgebench"
    title = "JudgeBench"
    source = "ScalerLab/JudgeBench"
    columns = ("pair_id", "source", "question", "response_A", "response_B", "label")
    tie_rule = "of two equal scores the second answer wins"

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Choose the files: not the outputs of judges, where the folder is the whole repository.

        Args:
            files: All data files of the folder, sorted.
        """
        return [file for file in files if "judge_name=" not in file.name]

    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the pair of a row.

        Args:
            row: A row.
            file: Its file.

        Raises:
            RowProblem: Its source or label is unknown.
        """
        source, label = text(row, "source"), text(row, "label")
        subset = next((name for start, name in _CATEGORY_OF.items() if source.startswith(start)), None)
        if subset is None:
            raise RowProblem(f"source is {source!r}, none of {', '.join(_CATEGORY_OF)}")
        if label not in _RIGHT:
            raise RowProblem(f"label is {label!r}, neither A>B nor B>A")
        answers = (text(row, "response_A"), text(row, "response_B"))
        model = str(row.get("response_model") or file.name.partition("-")[0])  # the hub's files are named by the half
        return [Item(text(row, "pair_id"), subset, user(text(row, "question")), answers, (_RIGHT[label],), group=model)]

    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute accuracy by category, over all pairs, and the mean of the categories, for each half of its own.

        Args:
            items: Pairs.
            scores: Scores of A and B of each.
        """
        halves = list(dict.fromkeys(item.group for item in items))
        columns: list[Figure] = []
        means: list[Figure] = []
        notes: tuple[str, ...] = ()
        for half in halves:
            own = [(item, score) for item, score in zip(items, scores, strict=True) if item.group == half]
            marks = [float((a > b) == (item.right[0] == 0)) for item, (a, b) in own]
            groups = by_group([item.subset for item, _ in own], marks, CATEGORIES)
            prefix = f"{half}: " if len(halves) > 1 else ""
            categories = [share(f"{prefix}{name}", each) for name, each in groups.items()]
            columns += categories
            means += totals(categories, marks, f"{prefix}total")
            if len(own) not in _SIZES:
                notes += (f"{prefix}{len(own)} pairs, not the {_SIZES[0]} or {_SIZES[1]} of a whole half",)
            notes += missing(groups, CATEGORIES, f"{prefix}categories")
        if len(halves) > 1:
            notes += (f"the halves of {' and '.join(halves)} are apart, as published; rows are of GPT-4o's",)
        return Figures(self.name, (), tuple(columns), tuple(means), notes=notes)


def totals(categories: Sequence[Figure], marks: Sequence[float], name: str = "total") -> tuple[Figure, ...]:
    """Compute the leaderboard's total, and the mean that others publish.

    Args:
        categories: Figures of the categories.
        marks: Marks of all pairs.
        name: Name of the totals.
    """
    return share(name, marks, mean="share of all pairs"), mean_of(name, categories, "mean of the categories")
