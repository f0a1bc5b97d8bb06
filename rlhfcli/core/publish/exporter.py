"""Exporting a model to a folder for other programs, and checking that they compute our numbers from it.

``of_run`` and ``of_folder`` find the model, ``export`` writes it in one of three formats, ``check`` loads a folder as
other programs do and compares.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.generation.score_position import at_end_token
from rlhfcli.core.model_files import deepspeed_chat_format
from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.models import any_format, deepspeed_chat
from rlhfcli.core.models.loading import load_config
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.tokenizers import load_tokenizer, reward_tokenizer
from rlhfcli.core.publish import conformance, model_card, reference_outputs, saving
from rlhfcli.core.publish.card_code import Form
from rlhfcli.core.publish.conformance import ClientResult, ConformanceReport
from rlhfcli.core.publish.export_source import Source, data_of_run, of_folder, of_run
from rlhfcli.core.publish.reference_outputs import ReferenceOutputs
from rlhfcli.data.store.manifest import damage
from rlhfcli.data.store.prepared import DataStore
from rlhfcli.data.templates.scored_template import ending_at_score
from rlhfcli.errors import DataError, ModelError, OutputError, RlhfError
from rlhfcli.files import run_layout
from rlhfcli.files.atomic import complete_or_absent

__all__ = ["ExportMismatch", "ExportSettings", "Source", "check", "export", "of_folder", "of_run"]

_Loaded = tuple[Any, PreTrainedTokenizerBase]  # a RewardModel or a language model, and its tokenizer


@dataclass(frozen=True)
class ExportSettings:
    """The format of an export.

    Args:
        form: ``merged``, ``adapter`` or ``deepspeed-chat``.
        shard_size: Largest size of one file of weights, such as ``5GB``.
        label: The output that is the reward, where a reward model has several: its name or its number.
        compare: Load the export as other programs do, and compare, before it takes its name.
    """

    form: Form = "merged"
    shard_size: str = saving.SHARD_SIZE
    label: str | None = None
    compare: bool = True


class ExportMismatch(ModelError):
    """Other programs would compute other numbers from an export, which is not kept.

    Args:
        report: The comparison.
        target: The folder where the export would have been.
    """

    exit_code = 1

    def __init__(self, report: ConformanceReport, target: Path) -> None:
        super().__init__(
            "other programs would compute other numbers from this export",
            where=str(target),
            hint="Nothing was written there. The table shows the differences.",
        )
        self.report = report


def export(source: Source, target: Path, settings: ExportSettings | None = None) -> ConformanceReport | None:
    """Export a model. An export that fails the comparison never takes the name of the target.

    Args:
        source: The model.
        target: The folder to write; an earlier one is replaced.
        settings: The format; by default a merged model.

    Returns:
        The comparison with other programs; ``None`` if it was not asked for.

    Raises:
        ModelError: The model cannot be loaded, or cannot be written in this format.
        ExportMismatch: Other programs compute other numbers.
        OutputError: The folder cannot be written.
    """
    settings = settings or ExportSettings()
    _set_accelerator()
    _check_target(target.resolve(), source.folder.resolve())
    if settings.form == "adapter" and not source.adapter.is_dir():
        hint = "It was trained in full, or its adapter was not kept: --format merged writes the whole model."
        raise ModelError("there is no adapter to export", where=str(source.adapter), hint=hint)
    model, tokenizer = _load(source.folder, settings.label, trust_remote_code=source.trust_remote_code)
    if settings.form == "deepspeed-chat" and not isinstance(model, RewardModel):
        hint = "Its phase 3 reads a plain language model as it is: --format merged."
        raise ModelError("only reward models have a form of DeepSpeed-Chat's", where=str(source.folder), hint=hint)
    reference = _reference(source.data, model, tokenizer) if settings.compare else None
    with complete_or_absent(target) as partial:
        _write(source, partial, settings, (model, tokenizer))
        report = check(partial, reference) if reference else None
        if report and report.compared and not report.agrees:
            raise ExportMismatch(report, target)
    return report


def check(folder: Path, reference: ReferenceOutputs | None = None, label: str | None = None) -> ConformanceReport:
    """Load a folder as other programs do, and compare their outputs with ours.

    Args:
        folder: A model, an adapter, or a reward model in DeepSpeed-Chat's format.
        reference: The expected outputs; ``None`` computes them from the folder itself.
        label: The output that is the reward, where a reward model has several.

    Returns:
        One result per program and way of loading.

    Raises:
        ModelError: This program cannot load it.
    """
    _set_accelerator()
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=str(folder))
    if reference is None:
        reference = _reference(data_of_run(folder), *_load(folder, label))
    adapter = folder if is_adapter(folder) else run_layout.adapter_of(folder)
    if adapter == folder:
        results = [_check_in_peft(folder, reference)]
    elif deepspeed_chat_format.is_checkpoint(folder):
        results = [conformance.in_deepspeed_chat(folder, reference)]
    else:
        results = list(conformance.in_transformers(folder, reference))
        results += [_check_in_peft(adapter, reference)] if adapter.is_dir() else []
    return ConformanceReport(tuple(results), reference.about)


def _check_target(target: Path, source: Path) -> None:
    if target == source or target in source.parents or source in target.parents:
        what = "this is the folder that is exported, or one around it or in it"
        raise OutputError(what, where=str(target), hint="Choose another one.")


def _write(source: Source, folder: Path, settings: ExportSettings, loaded: _Loaded) -> None:
    model, tokenizer = loaded
    plain = model.model if isinstance(model, RewardModel) else model
    card = _card(source, settings.form)
    if settings.form == "adapter":
        saving.copy_adapter(saving.AdapterCopy(source.adapter, source.base, plain, tokenizer), folder, card)
    elif settings.form == "deepspeed-chat":
        deepspeed_chat.save(model, tokenizer, folder, card)
    else:
        saving.write_model(plain, tokenizer, folder, card, settings.shard_size)


def _load(folder: Path, label: str | None = None, *, trust_remote_code: bool = False) -> _Loaded:
    """Load the model of a folder with its tokenizer; an adapter is merged into its base model."""
    name = str(folder)
    if deepspeed_chat_format.is_checkpoint(folder):
        return deepspeed_chat.load(folder)
    if any_format.is_reward_model(name, trust_remote_code=trust_remote_code):
        scored = any_format.load_reward_model(name, label=label, trust_remote_code=trust_remote_code)
        tokenizer = reward_tokenizer(name, trust_remote_code=trust_remote_code)
        fit_embeddings(scored.model, tokenizer)
        return scored, ending_at_score(tokenizer) if at_end_token(scored.config) else tokenizer
    if label is not None:
        raise ModelError("this is a language model: it has no outputs to choose from", where=f"--label {label}")
    model = any_format.load_language_model(name, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    fit_embeddings(model, tokenizer)
    return model, tokenizer


def _reference(data: Path | None, model: Any, tokenizer: PreTrainedTokenizerBase) -> ReferenceOutputs:
    return reference_outputs.reference(model, tokenizer, _validation_examples(data, model))


def _validation_examples(data: Path | None, model: Any) -> list[list[int]]:
    """Return token ids of the first validation examples; none where the prepared data is missing or damaged."""
    if data is None or damage(data):
        return []
    prepared, first = DataStore(data), slice(reference_outputs.EXAMPLES)
    try:
        if isinstance(model, RewardModel):
            return [list(ids) for pair in prepared.pairs("validation")[first] for ids in pair.sequences]
        return [list(dialogue.ids) for dialogue in prepared.dialogues("validation")[first]]
    except DataError:  # it has no rows for this phase
        return []


def _check_in_peft(adapter: Path, reference: ReferenceOutputs) -> ClientResult:
    base = base_of(adapter)
    try:
        load_config(base)
    except RlhfError as error:
        return ClientResult(conformance.PEFT, None, f"its base model is not here: {error.where or base}")
    return conformance.in_peft(adapter, base, reference)


def _set_accelerator() -> None:
    """Tell DeepSpeed its accelerator: transformers imports it to save and load, and it would print its guess."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _card(source: Source, form: Form) -> str:
    if source.trained is not None:
        return model_card.card(source.trained, form, source.base)
    if deepspeed_chat_format.is_checkpoint(source.folder):
        return model_card.converted_card(source.folder.resolve().name)
    try:
        return (source.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return f"# {source.folder.resolve().name}\n"
