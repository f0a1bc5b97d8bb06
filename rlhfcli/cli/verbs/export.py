"""``rlhf export``: folders that other programs load, and the proof that they give the same numbers there."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhfcli import console
from rlhfcli.api.options import ExportOptions
from rlhfcli.cli.shared.commands import caller
from rlhfcli.cli.shared.options import (
    LabelOption,
    OfflineOption,
    OverwriteOption,
    RecipeOption,
    SetOption,
    open_project,
)
from rlhfcli.cli.views.report_view import report_table
from rlhfcli.errors import ModelError, UsageError
from rlhfcli.files.run_layout import PHASES, REWARD, SFT

if TYPE_CHECKING:
    from rlhfcli.api.exporting import Target
    from rlhfcli.api.project import Project
    from rlhfcli.core.publish.conformance import ConformanceReport

_FORMS = "merged, the whole model; adapter, that of LoRA alone; or deepspeed-chat, what DeepSpeed-Chat reads."


class Format(str, Enum):
    """Form of an export."""

    merged = "merged"
    adapter = "adapter"
    deepspeed_chat = "deepspeed-chat"


SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="sft|reward|FOLDER", help="A phase of the run, or the folder of a model."),
]
TargetArgument = Annotated[Path | None, typer.Argument(metavar="TO", help="Where to.", show_default=False)]
FormOption = Annotated[Format, typer.Option("--format", metavar="FORM", help=_FORMS)]
SizeOption = Annotated[str, typer.Option(metavar="SIZE", help="Largest file of weights: 5GB, 500MB.")]
CheckOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Export nothing, only check this folder.", show_default=False),
]
NoCheckOption = Annotated[bool, typer.Option("--no-check", help="Do not check what was exported.")]


def export(
    source: SourceArgument = None,
    to: TargetArgument = None,
    form: FormOption = Format.merged,
    shard_size: SizeOption = ExportOptions.shard_size,
    check: CheckOption = None,
    label: LabelOption = None,
    no_check: NoCheckOption = False,
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
    model of another form, which becomes a plain one with one output.
    """
    from rlhfcli import launch
    from rlhfcli.api import exporting

    options = ExportOptions(form.value, shard_size, label, check=not no_check)
    launch.in_this_process(offline=offline)
    if check is not None and source is None:
        _show_report(check, exporting.check(check, label, console.TerminalSink()))
    elif check is None and source is not None and to is not None:
        target = exporting.Target(to, overwrite, caller().command, console.TerminalSink())
        target.check()
        of_run = source in PHASES
        project = open_project(recipe, overrides, f"export {source}", offline=offline, brief=True) if of_run else None
        _export(source, target, options, project)
    else:
        raise _unclear(source, check)


def _unclear(source: str | None, check: Path | None) -> UsageError:
    """Return the error for arguments that are missing, or too many."""
    if source is None or check is not None:
        hint = "rlhf export reward TO writes a folder, rlhf export --check FOLDER checks one."
        return UsageError("say what to export and where to, or which folder to check", hint=hint)
    name = Path(source).name if source not in PHASES else source
    hint = f"Name a folder that is not there yet: rlhf export {source} exported-{name}"
    return UsageError("TO is missing: where the export goes", where=f"rlhf export {source}", hint=hint)


def _export(source: str, target: Target, options: ExportOptions, project: Project | None) -> None:
    """Export a phase of a project, or a folder, and show the comparison, also of an export that is refused."""
    from rlhfcli.api import exporting

    try:
        if project is not None:
            phase = SFT if source == SFT else REWARD
            done = project.export(phase, target.folder, options, overwrite=target.overwrite)
        else:
            done = exporting.export_folder(source, target, options)
    except ModelError as error:
        report: ConformanceReport | None = getattr(
            error, "report", None
        )  # the class of this error cannot be named without torch
        if report is not None:
            console.result(report_table(report))
        raise
    if done.report is not None:
        _show_report(target.folder, done.report)
    console.message(f"exported: {target.folder}")


def _show_report(folder: Path, report: ConformanceReport) -> None:
    """Show a comparison, and exit with 1 if others get other numbers, or nothing could be compared."""
    console.result(report_table(report))
    if not report.compared:
        console.message(f"nothing could be compared: {folder} is not checked", style="bold red")
    elif not report.agrees:
        console.message(f"{folder} gives other numbers elsewhere", style="bold red")
    if not report.agrees:
        raise typer.Exit(1)
