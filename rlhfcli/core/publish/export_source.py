"""The model to export, with everything that is known about how it was trained: of a run, or of any folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.models.loading import resolve
from rlhfcli.core.publish.model_card import Trained
from rlhfcli.data.store.manifest import read_manifest
from rlhfcli.errors import ModelError
from rlhfcli.files import run_layout
from rlhfcli.files.run_layout import Phase
from rlhfcli.runs import provenance
from rlhfcli.runs.run_folder import RunFolder

_COMMANDS = {"sft": "rlhf sft", "reward": "rlhf reward"}


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        folder: The folder of the model.
        data: Prepared data with examples to compare, if there is any.
        trained: How it was trained, where that is known.
        base: Hub name or folder of the model that its adapter belongs to.
    """

    folder: Path
    data: Path | None = None
    trained: Trained | None = None
    base: str = ""

    @property
    def trust_remote_code(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.trained is not None and self.trained.recipe.model.trust_remote_code

    @property
    def adapter(self) -> Path:
        """The folder of the model's adapter; it exists only if the model was trained with LoRA."""
        return self.folder if is_adapter(self.folder) else run_layout.adapter_of(self.folder)


def of_run(run: RunFolder, phase: Phase) -> Source:
    """Return the model that a phase of a run has trained.

    Args:
        run: The run.
        phase: ``sft`` or ``reward``.

    Raises:
        ModelError: The phase is not finished, or the results of its evaluation cannot be read.
    """
    folder = run_layout.final(run.path, phase)
    if not run.finished(phase):
        raise ModelError("there is nothing to export yet", where=str(folder), hint=f"Run {_COMMANDS[phase]} first.")
    record = run.read_record()
    artifact = (record.get("parts") or {}).get(phase) or {}
    recipe = provenance.recipe_as_trained(provenance.recorded_settings(run.path, record, phase), run.recipe)
    trained = Trained(
        recipe,
        phase,
        steps=int(artifact.get("steps") or 0),
        tokens=int(artifact.get("tokens") or 0),
        validation={key: value for key, value in artifact.items() if key.startswith("eval_")},
        sources=_read_sources(run.data),
        evaluation=_read_evaluation(run.evaluation / f"{phase}.json"),
        best=artifact.get("best") or {},
    )
    on_sft = phase == "reward" and recipe.reward.init_from == "sft"
    base = str(run.sft.resolve()) if on_sft else resolve(recipe.model.name)
    return Source(folder, run.data, trained, base)


def of_folder(folder: Path) -> Source:
    """Return the model of a folder, about whose training nothing is known.

    Args:
        folder: A model, an adapter, or a reward model in DeepSpeed-Chat's format.

    Raises:
        ModelError: There is no such folder.
    """
    if not folder.is_dir():
        hint = "Give sft or reward, a phase of the run, or the folder of a model."
        raise ModelError("there is no such folder", where=str(folder), hint=hint)
    base = base_of(folder if is_adapter(folder) else run_layout.adapter_of(folder))
    return Source(folder, data_of_run(folder), None, base)


def data_of_run(folder: Path) -> Path | None:
    """Return the prepared data of the run that a model folder lies in; ``None`` outside of runs.

    Args:
        folder: The folder of a model.
    """
    run = run_layout.run_of(folder)
    return run_layout.data(run) if run_layout.is_run(run) else None


def _read_sources(data: Path) -> Sequence[Mapping[str, Any]]:
    """Read the sources in the manifest of the prepared data; empty without a manifest."""
    try:
        return read_manifest(data).get("sources") or ()
    except FileNotFoundError:
        return ()


def _read_evaluation(file: Path) -> Mapping[str, Any] | None:
    """Read the results of ``rlhf eval``; ``None`` if it did not run."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        results = None
    if not isinstance(results, dict):
        raise ModelError("the figures cannot be read", where=str(file), hint="rlhf eval measures them again.")
    return results
