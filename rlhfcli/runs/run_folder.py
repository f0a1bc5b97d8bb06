"""The folder of a run: which recipe it belongs to, what was done in it, and what may be written over.

    runs/<name>/
      recipe.yaml     the resolved recipe
      run.json        versions, commands, what was finished when
      data/           the prepared data
      sft/            metrics.jsonl, final/, and checkpoints/ while it is not finished
      reward/         the same
      eval/           sft.json, reward.json

Nothing in it is replaced silently: a folder that another recipe made is refused, and so is training a phase again,
unless the user says ``--overwrite``; and even then only what this program has made. One command at a time writes in it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rlhfcli import __version__
from rlhfcli.errors import OutputError, writing
from rlhfcli.files import folder_lock, run_layout, strict_yaml
from rlhfcli.files.atomic import write_text
from rlhfcli.files.redact import command_line, hidden_keys, without_secrets
from rlhfcli.files.run_layout import PHASES, REWARD, SFT, Phase
from rlhfcli.recipe.schema import Recipe
from rlhfcli.runs import ownership, provenance, resumable, run_record

Part = Literal["data", "sft", "reward", "eval"]
_PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "tokenizers", "safetensors")


class RunFolder:
    """A run on disk.

    Args:
        recipe: The recipe of this command.
        command: The words of the command. They are noted in ``run.json`` and shown to other commands that find the
            folder locked; secrets are left out.
    """

    def __init__(self, recipe: Recipe, command: Sequence[str] = ("rlhf",)) -> None:
        self.recipe = recipe
        self.command = command_line(command)
        self.path = Path(recipe.output_dir)
        self._opened = False
        self._made = self._made_parent = False  # by this command, which takes them away if it fails at its start

    @property
    def data(self) -> Path:
        """Folder of the prepared data."""
        return run_layout.data(self.path)

    @property
    def sft(self) -> Path:
        """The fine-tuned model."""
        return run_layout.final(self.path, SFT)

    @property
    def reward(self) -> Path:
        """The reward model."""
        return run_layout.final(self.path, REWARD)

    @property
    def evaluation(self) -> Path:
        """Folder of the results."""
        return run_layout.evaluation(self.path)

    def checkpoints(self, part: Phase) -> list[Path]:
        """What a phase that was stopped left behind, the oldest first; gone when it is finished."""
        return run_layout.list_checkpoints(run_layout.checkpoints(self.path, part))

    def finished(self, part: Phase) -> bool:
        """Whether a phase is done: its final folder only appears when everything is in it."""
        return os.path.isdir(run_layout.final(self.path, part))

    @contextmanager
    def held(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Keep every other command that writes out of this folder while a block runs.

        Args:
            say: Hears why it takes long.

        Raises:
            OutputError: Another command is at work in it, it is not one of ours, or it cannot be written.
        """
        ownership.refuse_other_folder(self.path)
        with ExitStack() as stack:
            stack.callback(self._remove_if_empty)
            with self._writing():
                self._make()
                stack.enter_context(folder_lock.locked(self.path, self.command, say=say))
            yield

    def open(self, writes: Part, *, overwrite: bool = False, resume: bool = False) -> list[str]:
        """Check that this command may write, and note the recipe.

        Args:
            writes: Which part it makes.
            overwrite: Replace what another recipe, or an earlier command, made of this part.
            resume: Go on with this part where an earlier command was stopped.

        Returns:
            Keys whose values hold a secret, which is not written; the first time.

        Raises:
            OutputError: The folder is not one of ours, belongs to another recipe, has this part already, or cannot
                be written.
        """
        ownership.refuse_other_folder(self.path)
        record = run_record.read(self.path)
        self._refuse_itself()
        self._refuse_others(writes)
        if not overwrite:
            self._refuse_another_recipe(writes, record)
            self._keep_unfinished(writes, resume=resume)
            if writes in PHASES and self.finished(writes) and not self.checkpoints(writes):
                raise OutputError(
                    f"the {writes} phase of this run is already done",
                    where=str(run_layout.final(self.path, writes)),
                    hint="--overwrite trains it again; --set output_dir=… keeps both.",
                )
        settings = without_secrets(self.recipe.model_dump(mode="json"))
        measured = writes == "eval" and bool(self.trained_otherwise())
        with self._writing():
            self._make()
            self.note({})  # first: it marks the folder as one of ours
            if not measured:  # else it would describe models that were trained with other settings
                write_text(run_layout.recipe_file(self.path), strict_yaml.write(settings))
        hidden = [] if self._opened else list(hidden_keys(settings))
        self._opened = True
        return hidden

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While this block runs nothing is worth keeping: if it fails, a run that this command began is taken away.

        Else the next command without --recipe would go on with a run that never was.
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

    def note(self, done: dict[str, Any]) -> None:
        """Write down in ``run.json`` what was done, beside versions and commands.

        Args:
            done: Part to figures, such as ``{"sft": {"steps": 300}}``; the time is added.
        """
        try:
            record = run_record.read(self.path)
        except OutputError:  # it was whole when this command began, and what was trained since is to be noted
            record = {}
        record.setdefault("started", _now())
        record["updated"] = _now()
        record["rlhf"] = __version__
        record["python"] = platform.python_version()
        record["packages"] = {name: _version(name) for name in _PACKAGES}
        if self.command not in record.setdefault("commands", []):
            record["commands"].append(self.command)
        for part, figures in done.items():
            made = {"recipe": provenance.settings(self.recipe, part)} if part in PHASES else {}
            record.setdefault("parts", {})[part] = {**figures, **made, "finished": _now()}
        write_text(run_layout.record_file(self.path), json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where there is none.

        Raises:
            OutputError: It cannot be read, or is damaged.
        """
        return run_record.read(self.path)

    def refuse_other_settings(self, part: Phase) -> None:
        """Check that a finished phase is what this recipe would give.

        Raises:
            OutputError: It was trained with other settings.
        """
        lines = provenance.changes(provenance.noted(self.path, self.record(), part), self.recipe, part, "trained")
        if lines:
            raise OutputError(
                "\n".join([f"the {part} phase of this run is done, and was trained with other settings", *lines]),
                where=str(run_layout.final(self.path, part)),
                hint="--overwrite trains it again with these; --set output_dir=… keeps both.",
            )

    def trained_otherwise(self) -> list[str]:
        """In what the finished models differ from this recipe, in words; empty where they do not."""
        record, finished = self.record(), [part for part in PHASES if self.finished(part)]
        made = {part: provenance.noted(self.path, record, part) for part in finished}
        found = {str(part): provenance.changes(made[part], self.recipe, part, "trained") for part in finished}
        what = "{} trained with other settings than this recipe's; what is measured is what they made"
        return provenance.described(found, what)

    def refuse_other_models(self) -> None:
        """Check that both models may be replaced.

        Raises:
            OutputError: Something of the user's stands in the place of one.
        """
        for part in PHASES:
            ownership.refuse_other_model(run_layout.final(self.path, part))

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        """Write ``eval/<name>.json`` and return its path."""
        self.evaluation.mkdir(parents=True, exist_ok=True)
        file = self.evaluation / f"{name}.json"
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
                if self._made_parent:  # runs/; a folder of the user's stays
                    self.path.parent.rmdir()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.path, "the output folder", "Choose another one: --set output_dir=…")

    def _refuse_itself(self) -> None:
        """Refuse to train a run on what the run itself has made: it would be replaced, or compared with itself."""
        named = [("model.name", self.recipe.model.name, self.path)]
        named += [(f"data.sources.{n}.path", each.path, self.data) for n, each in enumerate(self.recipe.data.sources)]
        for key, name, within in named:
            with suppress(OSError, ValueError, RuntimeError):
                place = Path(name).expanduser().resolve()
                if place.exists() and place.is_relative_to(within.resolve()):
                    raise OutputError(
                        f"{key} is something that this run has made itself: {name}",
                        where=str(self.path),
                        hint="Give the new run a folder of its own: --set output_dir=…",
                    )

    def _refuse_others(self, writes: Part) -> None:
        """Refuse where something of the user's stands in the place of what is to be written."""
        if writes in PHASES:
            ownership.refuse_other_model(run_layout.final(self.path, writes))
        if not (self.data / run_layout.DATA_MANIFEST).is_file():  # else it may be up to date, and stay as it is
            ownership.refuse_other_data(self.data)

    def _refuse_another_recipe(self, writes: Part, record: dict[str, Any]) -> None:
        found: dict[str, list[str]] = {}
        for part in PHASES:
            if part != writes and self.finished(part):
                made = provenance.noted(self.path, record, part)
                found[part] = provenance.changes(made, self.recipe, "data" if writes == "eval" else part, "before")
        hint = "Keep both with --set output_dir=…, or replace it with --overwrite."
        if writes == "eval":
            hint = "Measure with the recipe that it was made with: leave out --recipe or --set."
        provenance.refuse_changes(found, run_layout.recipe_file(self.path), hint)

    def _keep_unfinished(self, writes: Part, *, resume: bool) -> None:
        """Refuse what would lose a phase that was stopped, or make it impossible to go on with."""
        for phase in PHASES:
            left = self.checkpoints(phase)
            if left and phase == writes and not resume:
                raise OutputError(
                    f"the {phase} phase of this run was stopped after step {run_layout.step_of(left[-1]):,}",
                    where=str(left[-1]),
                    hint="--resume goes on from there, --overwrite begins again; --set output_dir=… keeps both.",
                )
            resumable.refuse_other_settings(self.recipe, phase, self.path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
