"""``run.json``: versions, commands, and what was finished when; checked when it is read, because people edit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlhfcli.errors import OutputError
from rlhfcli.files.run_layout import record_file
from rlhfcli.files.strict_yaml import dotted
from rlhfcli.recipe import messages


class _Noted(BaseModel):
    """A part of ``run.json``; keys that this version does not know are kept."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Part(_Noted):
    """What was noted of a part when it was finished, beside the figures of its last evaluation."""

    steps: int | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0)
    seconds: float | None = None
    finished: str | None = None
    recipe: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _figures_are_numbers(self) -> _Part:
        for key, value in (self.model_extra or {}).items():
            if key.startswith("eval_") and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{key} must be a number, got {messages.shown(value)}")
        return self


class _Record(_Noted):
    started: str | None = None
    updated: str | None = None
    packages: dict[str, str | None] | None = None
    commands: list[str] | None = None
    parts: dict[str, _Part] | None = None


def read(run: Path) -> dict[str, Any]:
    """What the ``run.json`` of a run says.

    Args:
        run: Its folder.

    Returns:
        What stands there; empty where there is none.

    Raises:
        OutputError: It cannot be read, or something in it is not what this program writes.
    """
    file = record_file(run)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", where=str(file)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _damaged(file, f"must hold keys, got {messages.shown(found)}")
    try:
        _Record.model_validate(found)
    except ValidationError as error:
        wrong = [f"{dotted(path)}: {what}" for path, what in messages.reword(error.errors(), found)]
        raise _damaged(file, "\n".join(wrong)) from None
    return {key: value for key, value in found.items() if value is not None}


def _damaged(file: Path, what: str) -> OutputError:
    hint = (
        "Correct it, or put {} in its place: nothing but its notes is lost, and what is trained counts as made with "
        "the recipe.yaml beside it."
    )
    return OutputError(what, where=str(file), hint=hint)
