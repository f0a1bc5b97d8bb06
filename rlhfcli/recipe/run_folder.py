"""The folder of a run: which recipe it belongs to, what was done in it, and what may be written over.

    runs/<name>/
      recipe.yaml     the resolved recipe
      run.json        versions, commands, what was finished when
      data/           the prepared data
      sft/            metrics.jsonl, final/, and checkpoints/ while it is not finished
      reward/         the same
      eval/           sft.json, reward.json

Nothing in it is replaced silently: a folder that another recipe made is refused, and so is training a phase again,
unless the user says ``--overwrite``.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml

from rlhfcli import __version__
from rlhfcli.errors import OutputError
from rlhfcli.recipe import leftovers, unfinished
from rlhfcli.recipe.redact import command_line
from rlhfcli.recipe.schema import Recipe

Part = Literal["data", "sft", "reward", "eval"]
Phase = Literal["sft", "reward"]
PHASES: tuple[Phase, ...] = ("sft", "reward")

# what a part was made from: if one of these differs, the part belongs to another recipe
_MADE_FROM: dict[str, tuple[str, ...]] = {
    "data": ("seed", "model.name", "data"),
    "sft": ("seed", "model.name", "data", "sft"),
    "reward": ("seed", "model.name", "data", "sft", "reward"),
}
_PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "tokenizers", "safetensors")


class RunFolder:
    """A run on disk.

    Args:
        recipe: The recipe of this command.
        dump: Writes a recipe as YAML.
    """

    def __init__(self, recipe: Recipe, dump: Callable[[Recipe], str]) -> None:
        self.recipe = recipe
        self.path = Path(recipe.output_dir)
        self._dump = dump
        self._new = self._new_parent = False

    @property
    def data(self) -> Path:
        """Folder of the prepared data."""
        return self.path / "data"

    @property
    def sft(self) -> Path:
        """The fine-tuned model."""
        return self.path / "sft" / "final"

    @property
    def reward(self) -> Path:
        """The reward model."""
        return self.path / "reward" / "final"

    @property
    def evaluation(self) -> Path:
        """Folder of the results."""
        return self.path / "eval"

    def checkpoints(self, part: Phase) -> list[Path]:
        """What a phase that was stopped left behind, the oldest first; gone when it is finished."""
        return unfinished.checkpoints(self.path / part / "checkpoints")

    def finished(self, part: Phase) -> bool:
        """Whether a phase is done: its final folder only appears when everything is in it."""
        return (self.sft if part == "sft" else self.reward).is_dir()

    def open(self, writes: Part, *, overwrite: bool = False, resume: bool = False) -> None:
        """Check that this command may write, and note the recipe.

        Args:
            writes: Which part it makes.
            overwrite: Replace what another recipe, or an earlier command, made of this part.
            resume: Go on with this part where an earlier command was stopped.

        Raises:
            OutputError: The folder is not one of ours, belongs to another recipe, has this part already, or cannot
                be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError("the output folder is a file", where=str(self.path), hint="Choose another output_dir.")
        if not overwrite:
            self._refuse_foreign(writes)
            self._keep_unfinished(writes, resume=resume)
            if writes in PHASES and self.finished(writes) and not self.checkpoints(writes):
                raise OutputError(
                    f"the {writes} phase of this run is already done",
                    where=str(self.path / writes / "final"),
                    hint="--overwrite trains it again; --set output_dir=… keeps both.",
                )
        self._new = not (self.path / "run.json").exists()
        self._new_parent = not self.path.parent.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.note({})  # first: it marks the folder as one of ours
            _write(self.path / "recipe.yaml", self._dump(self.recipe))
        except OSError as error:
            raise OutputError(
                f"the output folder cannot be written: {error.strerror}",
                where=str(self.path),
                hint="Choose another one: --set output_dir=…",
            ) from None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While this block runs nothing is worth keeping: if it fails, a run that this command began is taken away.

        Else the next command without --recipe would go on with a run that never was.
        """
        try:
            yield
        except BaseException:
            ours = {self.path / "recipe.yaml", self.path / "run.json"}
            if self._new and self.path.is_dir() and set(self.path.iterdir()) <= ours:
                with suppress(OSError):
                    shutil.rmtree(self.path)
                    if self._new_parent:  # runs/; a folder of the user's stays
                        self.path.parent.rmdir()
            raise

    def note(self, done: dict[str, Any]) -> None:
        """Write down in ``run.json`` what was done, beside versions and commands.

        Args:
            done: Part to figures, such as ``{"sft": {"steps": 300}}``; the time is added.
        """
        record = self.record()
        record.setdefault("started", _now())
        record["updated"] = _now()
        record["rlhf"] = __version__
        record["python"] = platform.python_version()
        record["packages"] = {name: _version(name) for name in _PACKAGES}
        command = command_line(["rlhf", *sys.argv[1:]])  # no secrets
        if command not in record.setdefault("commands", []):
            record["commands"].append(command)
        for part, figures in done.items():
            made = {"recipe": self._settings(part)} if part in ("sft", "reward") else {}
            record.setdefault("parts", {})[part] = {**figures, **made, "finished": _now()}
        _write(self.path / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty where there is none, or none that can be read."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        """Write ``eval/<name>.json`` and return its path."""
        self.evaluation.mkdir(parents=True, exist_ok=True)
        file = self.evaluation / f"{name}.json"
        _write(file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return file

    def _refuse_foreign(self, writes: Part) -> None:
        file = self.path / "recipe.yaml"
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / "run.json").is_file():
            raise OutputError(
                "the output folder holds something else: it has files, but no run.json",
                where=str(self.path),
                hint="Choose another one: --set output_dir=…",
            )
        parts = self.record().get("parts") or {}
        before = _read(file)
        different: dict[str, list[str]] = {}
        for part in ("sft", "reward"):
            if part != writes and self.finished(part):
                made = parts.get(part, {}).get("recipe") or {key: _get(before, key) for key in _MADE_FROM[part]}
                now = self._settings("data" if writes == "eval" else part)
                for key in sorted(now):
                    if made.get(key) != now[key]:
                        different.setdefault(key, []).append(part)
        if different:
            made_of = [part for part in ("sft", "reward") if any(part in found for found in different.values())]
            raise OutputError(
                f"the output folder belongs to another recipe: {', '.join(different)} differ"
                f"{'s' if len(different) == 1 else ''} from what {' and '.join(made_of)} was made with",
                where=str(file),
                hint="Keep both with --set output_dir=…, or replace it with --overwrite.",
            )

    def _keep_unfinished(self, writes: Part, *, resume: bool) -> None:
        """Refuse what would lose a phase that was stopped, or make it impossible to go on with."""
        for phase in PHASES:
            left = self.checkpoints(phase)
            if left and phase == writes and not resume:
                raise OutputError(
                    f"the {phase} phase of this run was stopped after step {unfinished.step_of(left[-1]):,}",
                    where=str(left[-1]),
                    hint="--resume goes on from there, --overwrite begins again; --set output_dir=… keeps both.",
                )
            unfinished.refuse_other_settings(self.recipe, phase, self.path / phase)

    def _settings(self, part: str) -> dict[str, Any]:
        """What a part is made from."""
        recipe = yaml.safe_load(self._dump(self.recipe))
        return {key: _get(recipe, key) for key in _MADE_FROM[part]}


def _read(file: Path) -> Any:
    """The recipe of a run; ``None`` where it cannot be read, which is then another recipe."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _get(recipe: Any, key: str) -> Any:
    for name in key.split("."):
        recipe = recipe.get(name) if isinstance(recipe, dict) else None
    return recipe


def _write(file: Path, text: str) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one."""
    for _, path in leftovers.left(file):
        path.unlink(missing_ok=True)
    partial = leftovers.beside(file)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
