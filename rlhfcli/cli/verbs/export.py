"""``rlhf export``: folders that other programs load, and the proof that they give the same numbers there."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console
from rlhfcli.cli.shared.options import (
    LabelOption,
    OfflineOption,
    OverwriteOption,
    RecipeOption,
    SetOption,
    open_project,
)
from rlhfcli.errors import OutputError, UsageError, writing
from rlhfcli.files import model_place
from rlhfcli.files.run_layout import PHASES, SUMS
from rlhfcli.words import shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlhfcli.core.publish.conformance import Report
    from rlhfcli.core.publish.exporter import Source
    from rlhfcli.core.publish.model_card import Form

_FORMS = "merged, the whole model; adapter, that of LoRA alone; or deepspeed-chat, what DeepSpeed-Chat reads."
_SIZE = re.compile(r"[1-9][0-9]*(?:MB|GB|MiB|GiB)")


class Format(str, Enum):
    """What is written."""

    merged = "merged"
    adapter = "adapter"
    deepspeed_chat = "deepspeed-chat"


def export(
    source: Annotated[
        str | None,
        typer.Argument(metavar="sft|reward|FOLDER", help="A phase of the run, or the folder of a model."),
    ] = None,
    to: Annotated[Path | None, typer.Argument(metavar="TO", help="Where to.", show_default=False)] = None,
    form: Annotated[Format, typer.Option("--format", metavar="FORM", help=_FORMS)] = Format.merged,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest file of weights: 5GB, 500MB.")] = "5GB",
    check: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Export nothing, only check this folder.", show_default=False),
    ] = None,
    label: LabelOption = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not check what was exported.")] = False,
    overwrite: OverwriteOption = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    offline: OfflineOption = False,
) -> None:
    """Write a trained model as a folder that others load, and check that they get our numbers.

    rlhf export reward my-model writes a plain transformers folder.

    The check loads it in plain transformers (an adapter: in PEFT), compares
    32 scores or logits, and ends with 1 where they differ; then nothing is left at TO.

    FOLDER may also hold an adapter, of PEFT's or ours, which is merged; or a reward
    model of somebody else's form: it becomes a plain one with one output.
    """
    from rlhfcli import launch

    if not _SIZE.fullmatch(shard_size):
        raise UsageError("this is no size", where=f"--shard-size {shard_size}", hint="Write 5GB, 500MB or 2GiB.")
    launch.in_this_process(offline=offline)
    if check is not None and source is None:
        _check(check, label)
    elif check is None and source is not None and to is not None:
        _claim(to, overwrite=overwrite)
        found = _find(source, recipe, overrides or [])
        with _alone(to):
            _claim(to, overwrite=overwrite)  # once more: another command may have been in there
            _export(found, to, (form.value, shard_size, label), compare=not no_check)
    else:
        raise _unclear(source, check)


def _unclear(source: str | None, check: Path | None) -> UsageError:
    """What is missing of the arguments, or too much."""
    if source is None or check is not None:
        hint = "rlhf export reward TO writes a folder, rlhf export --check FOLDER checks one."
        return UsageError("say what to export and where to, or which folder to check", hint=hint)
    name = Path(source).name if source not in PHASES else source
    hint = f"Name a folder that is not there yet: rlhf export {source} exported-{name}"
    return UsageError("TO is missing: where the export goes", where=f"rlhf export {source}", hint=hint)


def _claim(to: Path, *, overwrite: bool) -> None:
    """Refuse to replace what this program has not made, or, without --overwrite, anything."""
    from rlhfcli.runs.ownership import others_in_model

    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not (to / SUMS).is_file():
        raise OutputError("something else is there, no export of ours", where=str(to), hint="Choose another name.")
    if others := others_in_model(to):
        what = f"something else is in it, too: {shortened(others)}"
        raise OutputError(what, where=str(to), hint="Move that elsewhere, or choose another name.")
    if not overwrite:
        raise OutputError("this folder exists", where=str(to), hint="Choose another name, or add --overwrite.")


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    """Keep other exports away from a folder."""
    from rlhfcli.files import folder_lock
    from rlhfcli.files.redact import command_line

    with ExitStack() as stack:
        with writing(to):
            stack.enter_context(
                folder_lock.alone(to.parent, command_line(["rlhf", *sys.argv[1:]]), name=to.name, say=console.message)
            )
        yield


def _find(source: str, recipe: str | None, overrides: Sequence[str]) -> Source:
    if source in PHASES:
        loaded = open_project(recipe, overrides, f"export {source}")
    else:
        near = difflib.get_close_matches(source, PHASES, n=1, cutoff=0.6)
        hint = f"Did you mean {near[0]}?" if near else "Give sft or reward, a phase of the run, or a model's folder."
        model_place.check(source, hint=hint, local=True, adapters=True)
    with console.TerminalSink().stage("starting torch and transformers"):
        from rlhfcli.core.publish import exporter
    if source not in PHASES:
        return exporter.of_folder(Path(source).expanduser())
    from rlhfcli.runs.run_folder import RunFolder

    return exporter.of_run(RunFolder(loaded.recipe), "sft" if source == "sft" else "reward")


def _export(source: Source, to: Path, form: tuple[Form, str, str | None], *, compare: bool) -> None:
    from rlhfcli.core.publish import exporter

    how = exporter.How(*form, compare=compare)
    sink = console.TerminalSink()
    try:
        with sink.stage(f"writing {to}" + (", and loading it elsewhere" if how.compare else "")):
            report = exporter.write(source, to, how)
    except exporter.NotTheSame as different:
        console.result(_table(different.report))
        raise
    if report is not None:
        _show(to, report)
    console.message(f"exported: {to}")


def _check(folder: Path, label: str | None) -> None:
    model_place.check(folder, hint="Name the folder of an export.", local=True, adapters=True)
    sink = console.TerminalSink()
    with sink.stage("starting torch and transformers"):
        from rlhfcli.core.publish import exporter
    with sink.stage("loading it here and elsewhere"):
        report = exporter.check(folder, label=label)
    _show(folder, report)


def _show(folder: Path, report: Report) -> None:
    """Print what was found, and end with 1 if others get other numbers, or nothing could be compared."""
    console.result(_table(report))
    if not report.compared:
        console.message(f"nothing could be compared: {folder} is not checked", style="bold red")
    elif not report.holds:
        console.message(f"{folder} gives other numbers elsewhere", style="bold red")
    if not report.holds:
        raise typer.Exit(1)


def _table(report: Report) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text("The same numbers elsewhere", style="bold"))
    drawn.title_justify = "left"
    drawn.add_column("loaded by", overflow="fold")
    drawn.add_column("largest difference", justify="right")
    drawn.add_column("", overflow="fold")
    for outcome in report.outcomes:
        verdict = "not checked" if outcome.difference is None else "the same" if outcome.agrees else "differs"
        style = {"the same": "green", "differs": "bold red"}.get(verdict, "yellow")
        shown = (
            ""
            if outcome.difference is None or outcome.difference != outcome.difference
            else f"{outcome.difference:.1e}"
        )
        about = f"{verdict}: {outcome.note}" if outcome.note else verdict
        drawn.add_row(Text(outcome.client), Text(shown), Text(about, style=style))
    return Group(drawn, Text(f"Compared: {report.about}.", style="dim"))
