"""RM-Bench (2410.16184): 1,327 prompts, each with a right and a wrong answer in three styles.

The styles are concise, detailed in plain text, and detailed in Markdown. A prompt gives a matrix of nine comparisons
``chosen_i > rejected_j``: *hard* are the three where the wrong answer has the richer style (``i < j``), *normal* the
diagonal, *easy* the other three. A domain's figure is the mean of its three difficulties; Safety pools the prompts of
its two parts. The total is the mean of the four domains, and so is each difficulty; hence the mean of the three
difficulties is the same number when computed from the same parts. At least nine published rows have two different
ones, so both are given. Source: ``compute_accuracy`` in the README of github.com/THU-KEG/RM-Bench.

The test reproduces Skywork-Reward-Llama-3.1-8B (69.5, 60.6, 54.5, 95.7; 89.0, 74.7, 46.6: 70.1 by both) and
INF-ORM-Llama3.1-70B (66.3, 65.6, 56.8, 94.8; 91.8, 76.1, 44.8: 70.9 by both), and shows that Skywork-8B-v0.2's 70.2
and 72.6 cannot both be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, Row, Scores, conversation, text, texts
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures, by_group, mean_of, missing, share

STYLES = ("concise", "detailed", "Markdown")
DOMAINS = ("Chat", "Math", "Code", "Safety")
DIFFICULTIES = ("Easy", "Normal", "Hard")
_DOMAIN_OF = {
    "chat": "Chat", "math": "Math", "code": "Code",
    "safety-refuse": "Safety", "safety-response": "Safety", "safety": "Safety",
}  # fmt: skip
_ALL = "total_dataset.json"  # holds the rows of the other files


class RMBench(Benchmark):
    """RM-Bench."""

    name = "rm-bench"
    title = "RM-Bench"
    source = "THU-KEG/RM-Bench"
    columns = ("prompt", "chosen", "rejected", "domain")
    size = 1327

    def recognise(self, row: Row) -> bool:
        """Return whether a row is one of RM-Bench: lists of answers, and a domain that it knows.

        Args:
            row: As it was read from a file.
        """
        return super().recognise(row) and isinstance(row["chosen"], list) and _domain(row) in DOMAINS

    def files(self, files: Sequence[Path]) -> list[Path]:
        """Choose the files: ``total_dataset.json`` holds the rows of all others.

        Args:
            files: All data files of the folder, sorted.
        """
        return [file for file in files if file.name == _ALL] or list(files)

    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the prompt of a row: the right answers in three styles, then the wrong ones.

        Args:
            row: A row.
            file: Its file.
        """
        answers = (*texts(row, "chosen", len(STYLES)), *texts(row, "rejected", len(STYLES)))
        right = tuple(range(len(STYLES)))
        prompt = conversation(row["prompt"], "prompt")
        return [Item(str(row.get("id", "")), text(row, "domain"), prompt, answers, right, group=_domain(row))]

    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute figures by domain and by difficulty, and both means.

        Args:
            items: Prompts.
            scores: Scores of the right answers in three styles, then of the wrong ones.
        """
        marks = [_marks(own) for own in scores]
        found = [item.group for item in items]
        whole = by_group(found, [fmean(own) for own in marks], DOMAINS)
        domains = {name: share(name, own) for name, own in whole.items()}
        difficulties = []
        for k, name in enumerate(DIFFICULTIES):
            own = [share(part, each) for part, each in by_group(found, [mark[k] for mark in marks], DOMAINS).items()]
            difficulties.append(mean_of(name, own, "mean of the domains"))
        parts = by_group([item.subset for item in items], [fmean(own) for own in marks])
        subsets = tuple(share(name, own) for name, own in parts.items() if name.startswith("safety-"))
        columns = (*domains.values(), *difficulties)
        notes = missing(domains, DOMAINS, "domains")
        return Figures(self.name, subsets, columns, totals(tuple(domains.values()), difficulties), notes=notes)


def totals(domains: Sequence[Figure], difficulties: Sequence[Figure]) -> tuple[Figure, ...]:
    """Compute both means that are published as the total.

    Args:
        domains: Figures of the domains.
        difficulties: Figures of easy, normal and hard comparisons; each is of all prompts.
    """
    total = mean_of("total", domains, "mean of the domains")
    value = fmean(figure.value for figure in difficulties)
    return total, Figure("total", value, total.n, total.ci95, "mean of easy, normal and hard")


def _marks(scores: Scores) -> tuple[float, float, float]:
    """Return the shares of easy, normal and hard comparisons that are right."""
    n = len(STYLES)
    right, wrong = scores[:n], scores[n:]
    cells = [(i, j) for i in range(n) for j in range(n)]
    easy = fmean(right[i] > wrong[j] for i, j in cells if i > j)
    normal = fmean(right[i] > wrong[j] for i, j in cells if i == j)
    hard = fmean(right[i] > wrong[j] for i, j in cells if i < j)
    return easy, normal, hard


def _domain(row: Row) -> str:
    return _DOMAIN_OF.get(str(row["domain"]).lower(), "")
