"""Folders for other programs, checked before they take their name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhfcli.api.options import ExportOptions
from rlhfcli.api.results import Exported
from rlhfcli.errors import OutputError, writing
from rlhfcli.files import folder_lock, model_path, run_layout
from rlhfcli.files.redact import command_line
from rlhfcli.files.run_layout import PHASES, Phase
from rlhfcli.progress import Sink
from rlhfcli.words import shortened

if TYPE_CHECKING:
    from rlhfcli.core.publish.conformance import ConformanceReport
    from rlhfcli.core.publish.exporter import Source
    from rlhfcli.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Target:
    """Where an export goes.

    Args:
        folder: The export; made anew.
        overwrite: Replace an earlier export.
        command: The words of the command, for others that want to write there at the same time.
        sink: Receives the progress.
    """

    folder: Path
    overwrite: bool
    command: Sequence[str]
    sink: Sink

    def check(self) -> None:
        """Check that nothing is there that may not be replaced.

        Raises:
            OutputError: An earlier export is, without ``overwrite``; or something that this program has not made.
        """
        from rlhfcli.runs.ownership import files_of_others

        folder, where = self.folder, str(self.folder)
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        if not (folder / run_layout.SUMS).is_file():
            raise OutputError("something else is there, no export of ours", where=where, hint="Choose another name.")
        if others := files_of_others(folder):
            what = f"something else is in it, too: {shortened(others)}"
            raise OutputError(what, where=where, hint="Move that elsewhere, or choose another name.")
        if not self.overwrite:
            raise OutputError("this folder exists", where=where, hint="Choose another name, or add --overwrite.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other exports away from the folder while a block runs.

        Raises:
            OutputError: Another export writes there, or the lock cannot be written.
        """
        parent, name = self.folder.parent, self.folder.name
        with ExitStack() as stack:
            with writing(self.folder):
                lock = folder_lock.locked(parent, command_line(self.command), name=name, say=self.sink.note)
                stack.enter_context(lock)
            yield


def export_phase(run: RunFolder, phase: Phase, target: Target, options: ExportOptions) -> Exported:
    """Export the model that a phase of a run has made.

    Args:
        run: The run.
        phase: ``sft`` or ``reward``.
        target: Where the export goes.
        options: Its form.

    Raises:
        ModelError: The model is not trained yet, has no such form, or others would get other numbers from the export.
        OutputError: Something is in the target.
    """
    target.check()
    with target.sink.stage("starting torch and transformers"):
        from rlhfcli.core.publish import exporter
    return _write(exporter.of_run(run, phase), target, options)


def export_folder(folder: str, target: Target, options: ExportOptions) -> Exported:
    """Export the model of a folder.

    Args:
        folder: A model, an adapter, or a reward model of DeepSpeed-Chat's.
        target: Where the export goes.
        options: Its form.

    Raises:
        ModelError: There is no model, it has no such form, or others would get other numbers from the export.
        OutputError: Something is in the target.
    """
    target.check()
    near = difflib.get_close_matches(folder, PHASES, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else "Give sft or reward, a phase of the run, or a model's folder."
    model_path.check(folder, hint=hint, local=True, adapters=True)
    with target.sink.stage("starting torch and transformers"):
        from rlhfcli.core.publish import exporter
    return _write(exporter.of_folder(Path(folder).expanduser()), target, options)


def _write(source: Source, target: Target, options: ExportOptions) -> Exported:
    from rlhfcli.core.publish import exporter

    with target.locked():
        target.check()  # once more: another command may have been in there
        how = exporter.ExportSettings(options.form, options.shard_size, options.label, compare=options.check)
        stage = f"writing {target.folder}" + (", and loading it elsewhere" if options.check else "")
        with target.sink.stage(stage):
            return Exported(target.folder, exporter.export(source, target.folder, how))


def check(folder: Path, label: str | None, sink: Sink) -> ConformanceReport:
    """Load a folder here and in other programs, and compare the numbers.

    Args:
        folder: An export, or any other model folder.
        label: Which output is the reward, for a reward model that has several.
        sink: Receives the progress.

    Raises:
        ModelError: It cannot be loaded.
    """
    model_path.check(folder, hint="Name the folder of an export.", local=True, adapters=True)
    with sink.stage("starting torch and transformers"):
        from rlhfcli.core.publish import exporter
    with sink.stage("loading it here and elsewhere"):
        return exporter.check(folder, label=label)
