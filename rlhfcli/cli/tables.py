"""Draws the tables of ``rlhf prepare-data`` and ``rlhf eval``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rlhfcli.evaluation import report

_VERDICTS = {"alive": "green", "unclear": "yellow", "dead": "bold red"}


def data_tables(manifest: Mapping[str, Any]) -> RenderableType:
    """What ``prepare-data`` made of every source: nothing is left out without a count."""
    return _draw(_data_rows(manifest))


def language_tables(result: Mapping[str, Any]) -> RenderableType:
    """What ``evaluate_language`` found, for the terminal."""
    return _draw(report.language_rows(result))


def reward_tables(result: Mapping[str, Any]) -> RenderableType:
    """What ``evaluate_reward`` found, for the terminal; a dead reward model is called dead in red."""
    return _draw(report.reward_rows(result), note_style=_VERDICTS[result["verdict"]])


def _data_rows(manifest: Mapping[str, Any]) -> list[report.Table]:
    number = dict(number=True)
    names = ("rows read", "kept", "cut", "left out")
    columns = (
        report.Column("source"),
        *(report.Column(name, **number) for name in names),
        report.Column("why", share=1),
    )
    rows = []
    for source in manifest["sources"]:
        dropped = source["dropped"]
        why = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
        counts = (source["read"], source["kept"], source["cut"], sum(dropped.values()))
        rows.append((source["path"], *(f"{count:,}" for count in counts), why))
    named = "Every row that was left out stands in data/rejected_rows.jsonl with its place and the reason."
    sources = report.Table("Data", columns, tuple(rows), named if any(row[4] != "0" for row in rows) else None)
    columns = (
        report.Column("part"),
        *(report.Column(name, **number) for name in ("examples", "tokens", "answers", "longest")),
    )
    parts = [
        (
            name,
            f"{part['rows']:,}",
            f"{part['tokens']:,}",
            f"{part['answer'] / max(1, part['tokens']):.0%}",
            f"{part['longest']:,}",
        )
        for name, part in manifest["tokens"].items()
    ]
    note = "tokens: of a pair, the prompt once and both answers; answers: their share of the tokens."
    return [sources, report.Table("What the phases learn from", columns, tuple(parts), note)]


def _draw(tables: list[report.Table], note_style: str = "dim") -> RenderableType:
    parts: list[RenderableType] = []
    for table in tables:
        parts.append(_table(table))
        if table.note:
            parts.append(Text(table.note, style=note_style))
        parts.append(Text())
    return Group(*parts[:-1])


def _table(table: report.Table) -> RichTable:
    drawn = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_lines=table.lines,
        show_header=any(column.name for column in table.columns),
        pad_edge=False,
    )
    for column in table.columns:
        drawn.add_column(
            column.name,
            justify="right" if column.number else "left",
            no_wrap=column.number,
            ratio=column.share,
            overflow="fold",
        )
    for row in table.rows:
        # Text and not str: what a model says is no markup, even if it looks like it.
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn
