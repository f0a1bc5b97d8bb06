"""Draws the tables of ``rlhf prepare-data``, ``rlhf eval``, ``rlhf bench`` and ``--dry-run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rlhfcli.cli.views import bench_view, data_view, memory_view
from rlhfcli.evaluation import tables as report
from rlhfcli.files.run_layout import REWARD, SFT
from rlhfcli.words import visible

_BAR = 14  # characters of the longest bar of a histogram
_VERDICTS = {"alive": "green", "unclear": "yellow", "dead": "bold red"}


def data_tables(manifest: Mapping[str, Any]) -> RenderableType:
    """Draw the counts of prepared data: nothing is left out without a count.

    Args:
        manifest: Of the prepared data.
    """
    parts = [_draw(data_view.tables(manifest)), Text(), _histograms(data_view.histograms(manifest))]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in data_view.warnings(manifest)]
    return Group(*parts)


def evaluation_tables(results: Mapping[str, Mapping[str, Any]]) -> list[RenderableType]:
    """Draw the figures of the models that ``rlhf eval`` has measured.

    Args:
        results: By phase.
    """
    draw: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {SFT: language_tables, REWARD: reward_tables}
    return [draw[phase](figures) for phase, figures in results.items()]


def language_tables(result: Mapping[str, Any]) -> RenderableType:
    """Draw the figures of a language model.

    Args:
        result: As returned by ``evaluate_language``.
    """
    return _draw(report.language_rows(result))


def reward_tables(result: Mapping[str, Any]) -> RenderableType:
    """Draw the figures of a reward model; that it is dead is written in red.

    Args:
        result: As returned by ``evaluate_reward``.
    """
    return _draw(report.reward_rows(result), note_style=_VERDICTS[result["verdict"]])


def benchmark_tables(result: Mapping[str, Any]) -> RenderableType:
    """Draw the figures of a reward model on published benchmarks.

    Args:
        result: As ``Project.benchmark`` returns it.
    """
    return _draw([report.benchmark_rows(each) for each in result["benchmarks"]])


def bench_tables(results: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw the speed of each phase.

    Args:
        results: As returned by ``bench_phase``.
    """
    return _draw(bench_view.tables(results))


def memory_tables(results: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw the memory that each phase needs.

    Args:
        results: As returned by ``dry_run``.
    """
    return _draw([memory_view.table(result) for result in results])


def _draw(tables: list[report.Table], note_style: str = "dim") -> RenderableType:
    parts: list[RenderableType] = []
    for table in tables:
        parts.append(_table(table))
        if table.note:
            parts.append(Text(table.note, style=note_style))
        parts.append(Text())
    return Group(*parts[:-1])


def _histograms(histograms: list[data_view.Histogram]) -> RenderableType:
    """Draw histograms, side by side where the terminal is wide enough."""
    drawn = []
    for histogram in histograms:
        grid = RichTable.grid(padding=(0, 1))
        for justify in ("right", "right", "left"):
            grid.add_column(justify=justify, no_wrap=True)
        for label, rows, share in histogram.bins:
            grid.add_row(Text(label), Text(f"{rows:,}", style="dim"), Text(_bar(share), style="cyan"))
        drawn.append(Group(Text(histogram.title, style="bold"), grid, Text()))
    return Columns(drawn, padding=(0, 3))


def _bar(share: float) -> str:
    """Draw a bar of block characters; a share above zero is always visible."""
    eighths = max(round(share * 8 * _BAR), 1 if share else 0)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


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
        # Text and not str: what looks like markup in a model's answer is none; visible() first, for the width.
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    return drawn
