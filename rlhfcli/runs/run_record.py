"""``run.json``: versions, commands, and finished artifacts with their figures; validated, because people edit it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlhfcli import __version__
from rlhfcli.errors import OutputError
from rlhfcli.files.atomic import write_text
from rlhfcli.files.run_layout import record_file
from rlhfcli.files.strict_yaml import dotted
from rlhfcli.recipe import messages

_PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "tokenizers", "safetensors")


class _Entry(BaseModel):
    """A part of ``run.json``; keys that this version does not know are kept."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Artifact(_Entry):
    """The record of a finished artifact, beside the figures of its last evaluation."""

    steps: int | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0)
    seconds: float | None = None
    finished: str | None = None
    recipe: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _figures_are_numbers(self) -> _Artifact:
        for key, value in (self.model_extra or {}).items():
            if key.startswith("eval_") and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{key} must be a number, got {messages.shown(value)}")
        return self


class _Record(_Entry):
    started: str | None = None
    updated: str | None = None
    packages: dict[str, str | None] | None = None
    commands: list[str] | None = None
    parts: dict[str, _Artifact] | None = None


def read(run: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run.

    Args:
        run: The run folder.

    Returns:
        Its content; empty if it does not exist.

    Raises:
        OutputError: It cannot be read, or a value is invalid.
    """
    file = record_file(run)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _invalid(file, f"must hold keys, got {messages.shown(found)}")
    try:
        _Record.model_validate(found)
    except ValidationError as error:
        wrong = [f"{dotted(path)}: {what}" for path, what in messages.reword(error.errors(), found)]
        raise _invalid(file, "\n".join(wrong)) from None
    return {key: value for key, value in found.items() if value is not None}


def add(run: Path, command: str, done: Mapping[str, Mapping[str, Any]]) -> None:
    """Add finished artifacts, the command and the versions to ``run.json``.

    Args:
        run: The run folder, whose lock the caller holds.
        command: Command line without secrets.
        done: Artifact to figures; the time is added.
    """
    try:
        record = read(run)
    except OutputError:  # it was valid when this command began; what was trained since has to be recorded
        record = {}
    record.setdefault("started", _now())
    versions = {name: _version(name) for name in _PACKAGES}
    record |= {"updated": _now(), "rlhf": __version__, "python": platform.python_version(), "packages": versions}
    if command not in record.setdefault("commands", []):
        record["commands"].append(command)
    for artifact, figures in done.items():
        record.setdefault("parts", {})[artifact] = {**figures, "finished": _now()}
    write_text(record_file(run), json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _invalid(file: Path, what: str) -> OutputError:
    hint = (
        "Correct it, or put {} in its place: only its notes are lost, and trained models count as made with "
        "the recipe.yaml beside it."
    )
    return OutputError(what, where=str(file), hint=hint)
