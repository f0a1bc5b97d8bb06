"""PPE, Preference Proxy Evaluations (2410.14872): human votes of Chatbot Arena, and answers that are right or wrong.

*Human preference*: 16,038 pairs; the winner has to score higher, and ties of the voters do not count. *Correctness*:
prompts of MMLU-Pro, MATH, GPQA, MBPP-Plus and IFEval with 32 answers by one model, which are right or wrong; the pairs
that count are those of the column ``sampled_conflict_pairs``, a right and a wrong answer each, and a figure is the
share of all pairs of a set. Correctness is the mean of the five sets; others, such as the authors of GRM, publish the
mean of six with human preference. Both are given. Source: the paper and the data sets' cards; PPE's own code was not
read, so what it makes of equal scores is not known: here they count as wrong.

The test reproduces InternLM2-20B-Reward: MMLU-Pro 67.5, MATH 70.3, GPQA 57.5, MBPP-Plus 57.6, IFEval 62.5, human 61.0:
63.1 for correctness, 62.7 as the mean of six.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rlhfcli.data.dialogues.turns import RowProblem, describe_type
from rlhfcli.evaluation.benchmarks.base import Benchmark, Item, Row, Scores, conversation, text
from rlhfcli.evaluation.benchmarks.figures import Figure, Figures, by_group, mean_of, missing, share

HUMAN = "Human preference"
SETS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
_SET_OF = {"options": "MMLU-Pro", "Record ID": "GPQA", "test_list": "MBPP-Plus", "instruction_id_list": "IFEval"}
"""A column that only one of the sets has; MATH has none of them."""
_RIGHT = {"model_a": 0, "model_b": 1}


class PPE(Benchmark):
    """Preference Proxy Evaluations."""

    name = "ppe"
    title = "PPE"
    source = "lmarena-ai/PPE-Human-Preference-V1 and PPE-…-Best-of-K"
    columns = ("prompt", "response_1", "response_2")

    def recognise(self, row: Row) -> bool:
        """Return whether a row is one of PPE: a vote, or answers with sampled pairs.

        Args:
            row: As it was read from a file.
        """
        return super().recognise(row) and ("winner" in row or "sampled_conflict_pairs" in row)

    def items(self, row: Row, file: Path) -> list[Item]:
        """Read the vote or the pairs of a row; none for a vote that is a tie. Answers in no pair are left out.

        Args:
            row: A row.
            file: Its file.
        """
        prompt = conversation(row["prompt"], "prompt")
        name = str(row.get("question_id", ""))
        if "sampled_conflict_pairs" not in row:
            winner = _RIGHT.get(str(row["winner"]))
            both = (text(row, "response_1"), text(row, "response_2"))
            return [] if winner is None else [Item(name, HUMAN, prompt, both, (winner,))]
        pairs = _pairs(row)
        used = sorted({k for pair in pairs for k in pair})
        place = {k: position for position, k in enumerate(used)}
        subset = next((own for column, own in _SET_OF.items() if column in row), "MATH")
        answers = tuple(text(row, f"response_{k + 1}") for k in used)
        ordered = tuple((place[better], place[worse]) for better, worse in pairs)
        right = tuple(sorted({better for better, _ in ordered}))
        model = str(row.get("model_name") or "")
        return [Item(f"{name}: {model}", subset, prompt, answers, right, ordered, group=model)] if pairs else []

    def rule(self, items: Sequence[Item], scores: Sequence[Scores]) -> Figures:
        """Compute the share of right pairs of each set, and both means.

        Args:
            items: Votes and prompts.
            scores: Scores of the answers to each.
        """
        names = [item.subset for item in items]
        pairs = [item.comparisons() for item in items]
        marks = [
            fmean(own[better] > own[worse] for better, worse in each) for each, own in zip(pairs, scores, strict=True)
        ]
        order = (*SETS, HUMAN)
        counts = by_group(names, [float(len(each)) for each in pairs], order)
        columns = {name: share(name, own, counts[name]) for name, own in by_group(names, marks, order).items()}
        notes = missing(columns, order, "sets")
        return Figures(self.name, (), tuple(columns.values()), totals(columns), notes=notes)


def totals(columns: Mapping[str, Figure]) -> tuple[Figure, ...]:
    """Compute both means that are published.

    Args:
        columns: Figures by set; a mean is of those that are there.
    """
    correct = [columns[name] for name in SETS if name in columns]
    means = [mean_of("correctness", correct, "mean of the correctness sets")] if correct else []
    if correct and HUMAN in columns:
        means.append(mean_of("total", [*correct, columns[HUMAN]], "mean of all sets, with human preference"))
    return tuple(means) or (columns[HUMAN],)


def _pairs(row: Row) -> list[tuple[int, int]]:
    """Return ``(better, worse)`` of the sampled pairs, as indices from 0."""
    scores, pairs = row.get("scores"), row["sampled_conflict_pairs"]
    if not isinstance(scores, list) or not isinstance(pairs, list):
        raise RowProblem(
            f"scores is {describe_type(scores)} and sampled_conflict_pairs {describe_type(pairs)}, not lists"
        )
    found = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(k in range(len(scores)) for k in pair):
            raise RowProblem(f"sampled_conflict_pairs has {pair!r}, not two of {len(scores)} answers")
        if scores[pair[0]] != scores[pair[1]]:
            found.append((pair[0], pair[1]) if scores[pair[0]] > scores[pair[1]] else (pair[1], pair[0]))
    return found
