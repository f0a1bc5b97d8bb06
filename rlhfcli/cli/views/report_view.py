"""Draws the comparison of an export with what other programs compute from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rlhfcli.core.publish.conformance import ClientResult, ConformanceReport

_STYLES = {"the same": "green", "differs": "bold red"}


def report_table(report: ConformanceReport) -> RenderableType:
    """Draw a report: one row for each program that has loaded the export.

    Args:
        report: The largest differences.
    """
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text("The same numbers elsewhere", style="bold"))
    drawn.title_justify = "left"
    drawn.add_column("loaded by", overflow="fold")
    drawn.add_column("largest difference", justify="right")
    drawn.add_column("", overflow="fold")
    for result in report.results:
        drawn.add_row(*_row(result))
    return Group(drawn, Text(f"Compared: {report.about}.", style="dim"))


def _row(result: ClientResult) -> tuple[Text, Text, Text]:
    difference = result.difference
    verdict = "not checked" if difference is None else "the same" if result.agrees else "differs"
    shown = "" if difference is None or difference != difference else f"{difference:.1e}"  # NaN has no size
    about = f"{verdict}: {result.note}" if result.note else verdict
    return Text(result.client), Text(shown), Text(about, style=_STYLES.get(verdict, "yellow"))
