"""Tables of evaluation results as text: their content, not how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhfcli.words import counted, percent

_MEASURED = {"assistant": "the assistant's", "last": "those of each dialogue's last answer"}
_LONGEST_SAMPLE = 200  # characters of a sample in a table; the JSON has all


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Heading.
        number: Align to the right and never break over lines.
        share: Relative width in a wide table, for long texts.
    """

    name: str
    number: bool = False
    share: int | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: Title.
        columns: Columns.
        rows: Rows, each with one text per column.
        note: A line below the table.
        lines: Draw lines between rows, for texts of several lines.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str | None = None
    lines: bool = False


def language_rows(result: Mapping[str, Any]) -> list[Table]:
    """Make the tables of a language model: figures, skills, sets, samples.

    Args:
        result: As returned by ``evaluate_language``.
    """
    compared = (Column(""), Column("base", number=True), Column("fine-tuned", number=True))
    figures = [
        ("perplexity", f"{result['base_perplexity']:,.2f}", f"{result['perplexity']:,.2f}"),
        ("token accuracy", percent(result["base_token_accuracy"]), percent(result["token_accuracy"])),
    ]
    before, after = result["base_exact_match"], result["exact_match"]
    if after:
        figures.append(("exact match, mean of skills", percent(before["macro"]), percent(after["macro"])))
        base, tuned = result["base_first_line_match"], result["first_line_match"]
        figures.append(("  right in the first line", percent(base["macro"]), percent(tuned["macro"])))
    if result["stops"] is not None:
        figures.append(("answers that end by themselves", percent(result["base_stops"]), percent(result["stops"])))
    which = _MEASURED.get(str(result.get("loss_on")), "all of them")
    tables = [Table("Language model", compared, tuple(figures), f"Over {result['tokens']:,} tokens: {which}.")]
    if after:
        skills = [
            (skill, percent(before["by_skill"][skill]), percent(hits)) for skill, hits in after["by_skill"].items()
        ]
        note = f"{counted(after['prompts'], 'prompt')}, greedy answers."
        tables.append(Table("Exact match by skill", (Column("skill"), *compared[1:]), tuple(skills), note))
    if sets := result.get("exact_match_by_set"):
        columns = (Column("set"), Column("prompts", number=True), *compared[1:])
        rows = [
            (name, f"{match['prompts']:,}", percent(earlier["macro"]), percent(match["macro"]))
            for name, match in sets.items()
            if match and (earlier := result["base_exact_match_by_set"][name])
        ]
        tables.append(Table("Exact match by set, mean of skills", columns, tuple(rows)))
    if result["samples"]:
        tables.append(_samples(result["samples"]))
    return tables


def reward_rows(result: Mapping[str, Any]) -> list[Table]:
    """Make the tables of a reward model: figures, sets, kinds of pairs.

    Args:
        result: As returned by ``evaluate_reward``.
    """
    names = {"longer": "the longer answer wins", "shorter": "the shorter answer wins"}
    names["bag_of_words"] = "bag of words"
    figures = [
        ("ranking accuracy (ties count half)", _with_interval(result)),
        *((f"  {names[key]}", percent(share)) for key, share in result["baselines"].items() if share is not None),
        ("ties", percent(result["ties"])),
        ("nll (guessing: 0.6931)", f"{result['nll']:.4f}"),
        ("score of chosen answers", _spread(result, "chosen")),
        ("score of rejected answers", _spread(result, "rejected")),
    ]
    ranked = result["preferences"]
    of = "" if ranked == result["pairs"] else f" of {counted(ranked, 'preference')}"
    note = f"{counted(result['pairs'], 'pair')}{of}. Verdict: {result['verdict']}: {result['reason']}."
    tables = [Table("Reward model", (Column(""), Column("", number=True)), tuple(figures), note)]
    if sets := result.get("by_set"):
        columns = (Column("set"), *(Column(name, number=True) for name in ("pairs", "accuracy", "nll", "verdict")))
        rows = [
            (name, f"{part['pairs']:,}", _with_interval(part), f"{part['nll']:.4f}", part["verdict"])
            for name, part in sets.items()
        ]
        tables.append(Table("Ranking accuracy by set", columns, tuple(rows), "The figures above are of all pairs."))
    if result["by_kind"]:
        columns = (Column("kind"), Column("pairs", number=True), Column("accuracy", number=True))
        kinds = [(kind, f"{part['pairs']:,}", _with_interval(part)) for kind, part in result["by_kind"].items()]
        tables.append(Table("Ranking accuracy by kind of pair", columns, tuple(kinds)))
    return tables


def benchmark_rows(result: Mapping[str, Any]) -> Table:
    """Make the table of a reward model on a published benchmark: subsets, columns of the leaderboard, totals.

    Args:
        result: Figures as ``Figures.as_json`` returns them, with ``title``, ``skipped`` and ``in_training_data``.
    """
    columns = (Column(""), Column("items", number=True), Column("accuracy", number=True), Column("how", share=1))
    rows = [_benchmark_row(figure) for part in ("subsets", "columns", "totals") for figure in result[part]]
    notes = [f"{result['ties']:,} items with a tie: {result['tie_rule']}"] if result["ties"] else []
    if skipped := result["skipped"]["rows"]:
        notes.append(f"{counted(skipped, 'row')} cannot be used: {result['skipped']['examples'][0]}")
    overlap = result["in_training_data"]
    if overlap and overlap["found"]:
        notes.append(f"{overlap['found']:,} of {overlap['rows']:,} prompts occur in the training data of the run")
    return Table(result["title"], columns, tuple(rows), "\n".join([*notes, *result["notes"]]) or None)


def _benchmark_row(figure: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = figure["ci95"]
    accuracy = f"{percent(figure['value'])}  [{100 * low:.1f}, {100 * high:.1f}]"
    return figure["name"], f"{figure['n']:,}", accuracy, figure["mean"]


def _samples(samples: list[Mapping[str, Any]]) -> Table:
    columns = tuple(Column(name, share=1) for name in ("prompt", "base", "fine-tuned", "reference"))
    keys = ("prompt", "base", "tuned", "reference")
    rows = tuple(tuple(_short(sample[key]) for key in keys) for sample in samples)
    if not any(row[-1] for row in rows):  # no prompt has a reference answer
        columns, rows = columns[:-1], tuple(row[:-1] for row in rows)
    return Table("Answers side by side", columns, rows, lines=True)


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE].rstrip() + " …"


def _with_interval(part: Mapping[str, Any]) -> str:
    low, high = part["accuracy_ci95"]
    return f"{percent(part['accuracy'])}  [{100 * low:.1f}, {100 * high:.1f}]"


def _spread(result: Mapping[str, Any], side: str) -> str:
    return f"{result[f'{side}_mean']:+.2f} ± {result[f'{side}_std']:.2f}"
