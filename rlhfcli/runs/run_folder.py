"""A run on disk: which recipe it belongs to, what is finished in it, and which artifacts may be replaced.

``files/run_layout.py`` shows the folder. Nothing in it is replaced silently: a folder that another recipe made is
refused, and so is training a phase again, unless the user passes ``--overwrite``; and even then only files that this
program wrote are replaced. One command at a time writes in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from rlhfcli.errors import OutputError, writing
from rlhfcli.files import folder_lock, run_layout, strict_yaml
from rlhfcli.files.atomic import write_text
from rlhfcli.files.redact import command_line, hidden_keys, without_secrets
from rlhfcli.files.run_layout import PHASES, REWARD, SFT, Phase
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs import ownership, provenance, resumable, run_record

Artifact = Literal["data", "sft", "reward", "eval"]  # what a command makes in a run


class RunFolder:
    """A run folder.

    Args:
        recipe: The recipe of this command.
        command: Words of the command line, saved in ``run.json`` and shown to commands that find the folder locked;
            secrets are redacted.
    """

    def __init__(self, recipe: Recipe, command: Sequence[str] = ("rlhf",)) -> None:
        self.recipe = recipe
        self.command = command_line(command)
        self.path = Path(recipe.output_dir)
        self._opened = False
        self._made = self._made_parent = False  # by this command, which removes them if it fails early

    @property
    def data(self) -> Path:
        """Folder of the prepared data."""
        return run_layout.data(self.path)

    @property
    def sft(self) -> Path:
        """Folder of the fine-tuned model."""
        return run_layout.final(self.path, SFT)

    @property
    def reward(self) -> Path:
        """Folder of the reward model."""
        return run_layout.final(self.path, REWARD)

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluation results."""
        return run_layout.evaluation(self.path)

    def checkpoints(self, phase: Phase) -> list[Path]:
        """Return the checkpoints of an unfinished phase, oldest first.

        Args:
            phase: ``sft`` or ``reward``.
        """
        return run_layout.list_checkpoints(run_layout.checkpoints(self.path, phase))

    def finished(self, phase: Phase) -> bool:
        """Return whether the model of a phase is complete.

        Args:
            phase: ``sft`` or ``reward``.
        """
        return os.path.isdir(run_layout.final(self.path, phase))

    @contextmanager
    def locked(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Keep other writing commands out of this folder inside a block.

        Args:
            say: Receives a message when waiting takes long.

        Raises:
            OutputError: Another command works in it, it is not a run folder, or it cannot be written.
        """
        ownership.refuse_other_folder(self.path)
        with ExitStack() as stack:
            stack.callback(self._remove_if_empty)
            with self._writing():
                self._make()
                stack.enter_context(folder_lock.locked(self.path, self.command, say=say))
            yield

    def claim(self, artifact: Artifact, *, overwrite: bool = False, resume: bool = False) -> list[str]:
        """Check that this command may write an artifact, and save the recipe.

        Args:
            artifact: The artifact that the command makes.
            overwrite: Replace an artifact of another recipe or an earlier command.
            resume: Resume the phase from its newest checkpoint.

        Returns:
            Dotted keys of secrets, which are redacted in the saved recipe; empty after the first call.

        Raises:
            OutputError: The folder is not a run folder, belongs to another recipe, has this artifact already, or
                cannot be written.
        """
        ownership.refuse_other_folder(self.path)
        record = run_record.read(self.path)
        self._refuse_own_output()
        self._refuse_files_of_others(artifact)
        if not overwrite:
            self._refuse_another_recipe(artifact, record)
            self._protect_unfinished(artifact, resume=resume)
            if artifact in PHASES and self.finished(artifact) and not self.checkpoints(artifact):
                raise OutputError(
                    f"the {artifact} phase of this run is already done",
                    where=str(run_layout.final(self.path, artifact)),
                    hint="--overwrite trains it again; --set output_dir=… keeps both.",
                )
        settings = without_secrets(self.recipe.model_dump(mode="json"))
        keeps_recipe = artifact == "eval" and bool(self.differing_settings())
        with self._writing():
            self._make()
            self.record_done({})  # first: it marks the folder as a run
            if not keeps_recipe:  # else it would describe models that were trained with other settings
                write_text(run_layout.recipe_file(self.path), strict_yaml.write(settings))
        hidden = [] if self._opened else list(hidden_keys(settings))
        self._opened = True
        return hidden

    @contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Remove a run that this command began if the block fails: nothing in it is worth keeping yet.

        Otherwise the next command without --recipe would take it.
        """
        try:
            yield
        except BaseException:
            ours = {run_layout.RECIPE, run_layout.RECORD, *folder_lock.FILES}
            if self._made and self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= ours:
                with suppress(OSError):
                    for file in (run_layout.recipe_file(self.path), run_layout.record_file(self.path)):
                        file.unlink(missing_ok=True)
                self._remove_if_empty()
            raise

    def record_done(self, done: Mapping[str, Mapping[str, Any]]) -> None:
        """Add finished artifacts, the command and the versions to ``run.json``.

        Args:
            done: Artifact to figures, such as ``{"sft": {"steps": 300}}``; the time is added.
        """
        entries = {name: dict(figures) for name, figures in done.items()}
        for phase in entries.keys() & set(PHASES):
            entries[phase]["recipe"] = provenance.settings(self.recipe, phase)
        run_record.add(self.path, self.command, entries)

    def read_record(self) -> dict[str, Any]:
        """Return the content of ``run.json``; empty if it does not exist.

        Raises:
            OutputError: It cannot be read, or is damaged.
        """
        return run_record.read(self.path)

    def refuse_other_settings(self, phase: Phase) -> None:
        """Check that a finished phase was trained with the settings of this recipe.

        Args:
            phase: ``sft`` or ``reward``.

        Raises:
            OutputError: It was trained with other settings.
        """
        made = provenance.recorded_settings(self.path, self.read_record(), phase)
        lines = provenance.changed_settings(made, self.recipe, phase, "trained")
        if lines:
            raise OutputError(
                "\n".join([f"the {phase} phase of this run is finished, and was trained with other settings", *lines]),
                where=str(run_layout.final(self.path, phase)),
                hint="--overwrite trains it again with these; --set output_dir=… keeps both.",
            )

    def differing_settings(self) -> list[str]:
        """Describe which settings of the finished models differ from this recipe; empty if none do."""
        record, finished = self.read_record(), [phase for phase in PHASES if self.finished(phase)]
        made = {phase: provenance.recorded_settings(self.path, record, phase) for phase in finished}
        found = {str(each): provenance.changed_settings(made[each], self.recipe, each, "trained") for each in finished}
        what = "{} trained with other settings than this recipe's; what is measured is what they made"
        return provenance.describe(found, what)

    def refuse_other_models(self) -> None:
        """Check that both models may be replaced.

        Raises:
            OutputError: A model folder holds files of the user's.
        """
        for phase in PHASES:
            ownership.refuse_other_model(run_layout.final(self.path, phase))

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        """Write ``eval/<name>.json``.

        Args:
            name: ``sft``, ``reward`` or ``benchmarks``.
            result: Figures and samples.

        Returns:
            The path of the file.
        """
        self.evaluation.mkdir(parents=True, exist_ok=True)
        file = run_layout.result_file(self.path, name)
        write_text(file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return file

    def _make(self) -> None:
        if not self.path.exists():
            self._made, self._made_parent = True, not self.path.parent.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        elif not run_layout.record_file(self.path).exists():
            self._made = True

    def _remove_if_empty(self) -> None:
        if self._made:
            with suppress(OSError):
                self.path.rmdir()
                if self._made_parent:  # runs/; an older folder stays
                    self.path.parent.rmdir()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.path, "the output folder", "Choose another one: --set output_dir=…")

    def _refuse_own_output(self) -> None:
        """Refuse to train a run on its own output, which would be replaced, or compared with itself."""
        named = [("model.name", self.recipe.model.name, self.path)]
        named += [(f"data.sources.{n}.path", each.path, self.data) for n, each in enumerate(self.recipe.data.sources)]
        for key, name, within in named:
            with suppress(OSError, ValueError, RuntimeError):
                place = Path(name).expanduser().resolve()
                if place.exists() and place.is_relative_to(within.resolve()):
                    raise OutputError(
                        f"{key} is an output of this run itself: {name}",
                        where=str(self.path),
                        hint="Give the new run a folder of its own: --set output_dir=…",
                    )

    def _refuse_files_of_others(self, artifact: Artifact) -> None:
        """Refuse to replace files that this program did not write."""
        if artifact in PHASES:
            ownership.refuse_other_model(run_layout.final(self.path, artifact))
        if not (self.data / run_layout.DATA_MANIFEST).is_file():  # otherwise it may be up to date, and is kept
            ownership.refuse_other_data(self.data)

    def _refuse_another_recipe(self, artifact: Artifact, record: dict[str, Any]) -> None:
        found: dict[str, list[str]] = {}
        for phase in PHASES:
            if phase != artifact and self.finished(phase):
                made = provenance.recorded_settings(self.path, record, phase)
                compared = "data" if artifact == "eval" else phase
                found[phase] = provenance.changed_settings(made, self.recipe, compared, "before")
        hint = "Keep both with --set output_dir=…, or replace it with --overwrite."
        if artifact == "eval":
            hint = "Evaluate with the recipe that it was made with: leave out --recipe or --set."
        provenance.refuse_changed_settings(found, run_layout.recipe_file(self.path), hint)

    def _protect_unfinished(self, artifact: Artifact, *, resume: bool) -> None:
        """Refuse to replace the checkpoints of a stopped phase, or to make them useless."""
        for phase in PHASES:
            found = self.checkpoints(phase)
            if found and phase == artifact and not resume:
                raise OutputError(
                    f"the {phase} phase of this run was stopped after step {run_layout.step_of(found[-1]):,}",
                    where=str(found[-1]),
                    hint="--resume continues from there, --overwrite begins again; --set output_dir=… keeps both.",
                )
            resumable.refuse_other_settings(self.recipe, phase, self.path)
