"""From what was trained to a folder for others: which model, in which format, with which card; and does it hold.

of_run, of_folder   what is exported
write               the export; returns what it has to give elsewhere
check               loads a folder as other programs do, and compares
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.generation.score_position import at_end_token
from rlhfcli.core.model_files import deepspeed_chat_format
from rlhfcli.core.model_files.peft_format import base_of, is_adapter
from rlhfcli.core.models import adapters, deepspeed_chat, tokenizers
from rlhfcli.core.models.loading import load_config, resolve
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.tokenizers import load_tokenizer
from rlhfcli.core.publish import conformance, model_card, reference_outputs, saving
from rlhfcli.core.publish.conformance import Outcome, Report
from rlhfcli.core.publish.reference_outputs import ReferenceOutputs
from rlhfcli.data.store.manifest import damage, read_manifest
from rlhfcli.data.store.prepared import DataStore
from rlhfcli.data.templates.scored_template import ending_at_score
from rlhfcli.errors import DataError, ModelError, OutputError, RlhfError
from rlhfcli.files import run_layout
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.run_layout import Phase
from rlhfcli.runs import provenance
from rlhfcli.runs.run_folder import RunFolder

_RUN_FIRST = {"sft": "rlhf sft", "reward": "rlhf reward"}


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        folder: A model folder, or a reward model of DeepSpeed-Chat's.
        data: Prepared data to compare with, if any.
        made: How it was trained, where that is known.
        base: What its adapter belongs to.
    """

    folder: Path
    data: Path | None = None
    made: model_card.Trained | None = None
    base: str = ""

    @property
    def trusted(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.made is not None and self.made.recipe.model.trust_remote_code


def of_run(run: RunFolder, phase: Phase) -> Source:
    """The model that a phase of a run has made.

    Raises:
        ModelError: It is not there yet.
    """
    folder = run_layout.final(run.path, phase)
    if not run.finished(phase):
        raise ModelError("there is nothing to export yet", where=str(folder), hint=f"Run {_RUN_FIRST[phase]} first.")
    noted = (run.read_record().get("parts") or {}).get(phase) or {}
    recipe = provenance.recipe_as_trained(provenance.recorded_settings(run.path, run.read_record(), phase), run.recipe)
    made = model_card.Trained(
        recipe,
        phase,
        steps=int(noted.get("steps") or 0),
        tokens=int(noted.get("tokens") or 0),
        validation={key: value for key, value in noted.items() if key.startswith("eval_")},
        sources=_sources(run.data),
        measured=_measured(run.evaluation / f"{phase}.json"),
        best=noted.get("best") or {},
    )
    tuned = phase == "reward" and recipe.reward.init_from == "sft"
    base = str(run.sft.resolve()) if tuned else resolve(recipe.model.name)
    return Source(folder, run.data, made, base)


def _sources(data: Path) -> Sequence[Mapping[str, Any]]:
    """What the prepared data's manifest says of each source."""
    try:
        return read_manifest(data).get("sources") or ()
    except FileNotFoundError:
        return ()


def _measured(file: Path) -> Mapping[str, Any] | None:
    """What ``rlhf eval`` found; ``None`` if it did not run."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError("the figures cannot be read", where=str(file), hint="rlhf eval measures them anew.")
    return found


def of_folder(folder: Path) -> Source:
    """A model folder that is not known to belong to a run.

    Raises:
        ModelError: There is no such folder.
    """
    if not folder.is_dir():
        hint = "Give sft or reward, a phase of the run, or the folder of a model."
        raise ModelError("there is no such folder", where=str(folder), hint=hint)
    base = base_of(folder if is_adapter(folder) else run_layout.adapter_of(folder))
    return Source(folder, _data_beside(folder), None, base)


@dataclass(frozen=True)
class How:
    """In which way something is exported.

    Args:
        form: ``merged``, ``adapter`` or ``deepspeed-chat``.
        shard_size: Largest file of weights.
        label: Which of a reward model's outputs counts, if it has several.
        compare: Load it elsewhere and compare, before it takes its name.
    """

    form: model_card.Form = "merged"
    shard_size: str = saving.SHARD_SIZE
    label: str | None = None
    compare: bool = True


class NotTheSame(ModelError):
    """Other programs get other numbers from an export, which is not kept.

    Args:
        report: What they get.
        target: Where it would have been.
    """

    exit_code = 1

    def __init__(self, report: Report, target: Path) -> None:
        super().__init__(
            "others would get other numbers from this export",
            where=str(target),
            hint="Nothing was written there. What differs stands in the table.",
        )
        self.report = report


def write(source: Source, target: Path, how: How | None = None) -> Report | None:
    """Export. What fails the comparison never takes the name of the target.

    Args:
        source: What.
        target: Where to; what stands there is replaced.
        how: In which form.

    Returns:
        What others get from it; ``None`` if they were not asked.

    Raises:
        ModelError: It cannot be loaded, or has no such form.
        NotTheSame: Others get other numbers.
        OutputError: The folder cannot be written.
    """
    how = how or How()
    _say_accelerator()
    there, of = target.resolve(), source.folder.resolve()
    if there == of or there in of.parents or of in there.parents:
        what = "this is the folder that is exported, or one around it or in it"
        raise OutputError(what, where=str(target), hint="Choose another one.")
    adapter = source.folder if is_adapter(source.folder) else run_layout.adapter_of(source.folder)
    if how.form == "adapter" and not adapter.is_dir():
        hint = "It was trained in full, or its adapter was not kept: --format merged writes the whole model."
        raise ModelError("there is no adapter to export", where=str(adapter), hint=hint)
    model, tokenizer = _load(source.folder, how.label, trusted=source.trusted)
    if how.form == "deepspeed-chat" and not isinstance(model, RewardModel):
        hint = "Its phase 3 reads a plain language model as it is: --format merged."
        raise ModelError("only reward models have a form of DeepSpeed-Chat's", where=str(source.folder), hint=hint)
    reference = reference_outputs.reference(model, tokenizer, _examples(source.data, model)) if how.compare else None
    plain = model.model if isinstance(model, RewardModel) else model
    with complete_or_absent(target) as partial:
        if how.form == "adapter":
            copied = saving.Copy(adapter, source.base, plain, tokenizer)
            saving.copy_adapter(copied, partial, _card(source, how.form))
        elif how.form == "deepspeed-chat":
            deepspeed_chat.save(model, tokenizer, partial, _card(source, how.form))
        else:
            saving.write_model(plain, tokenizer, partial, _card(source, how.form), how.shard_size)
        report = check(partial, reference) if reference else None
        if report and report.compared and not report.holds:
            raise NotTheSame(report, target)
    return report


def check(folder: Path, reference: ReferenceOutputs | None = None, label: str | None = None) -> Report:
    """Load a folder as other programs do, and compare.

    Args:
        folder: A model, an adapter, or a reward model of DeepSpeed-Chat's.
        reference: What has to come out; ``None``: what this program makes of the folder itself.
        label: Which of a reward model's outputs counts, if it has several.

    Returns:
        What every way of loading it gives.

    Raises:
        ModelError: It cannot be loaded at all.
    """
    _say_accelerator()
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=str(folder))
    adapter = folder if is_adapter(folder) else run_layout.adapter_of(folder)
    if reference is None:
        model, tokenizer = _load(folder, label)
        reference = reference_outputs.reference(model, tokenizer, _examples(_data_beside(folder), model))
        del model
    if adapter == folder:
        outcomes = [_in_peft(folder, reference)]
    elif deepspeed_chat_format.is_checkpoint(folder):
        outcomes = [conformance.in_deepspeed_chat(folder, reference)]
    else:
        outcomes = list(conformance.in_transformers(folder, reference))
        outcomes += [_in_peft(adapter, reference)] if adapter.is_dir() else []
    return Report(tuple(outcomes), reference.about)


def _load(folder: Path, label: str | None = None, *, trusted: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """What a folder holds, as a plain model: an adapter is merged into its base."""
    name = str(folder)
    if deepspeed_chat_format.is_checkpoint(folder):
        return deepspeed_chat.load(folder)
    if adapters.is_reward_model(name, trust_remote_code=trusted):
        scored = adapters.reward_model(name, label=label, trust_remote_code=trusted)
        tokenizer = tokenizers.reward_tokenizer(name, trust_remote_code=trusted)
        fit_embeddings(scored.model, tokenizer)
        return scored, ending_at_score(tokenizer) if at_end_token(scored.config) else tokenizer
    if label is not None:
        raise ModelError("this is a language model: it has no outputs to choose from", where=f"--label {label}")
    model = adapters.language_model(name, trust_remote_code=trusted)
    tokenizer = load_tokenizer(name, trust_remote_code=trusted)
    fit_embeddings(model, tokenizer)
    return model, tokenizer


def _in_peft(adapter: Path, reference: ReferenceOutputs) -> Outcome:
    base = base_of(adapter)
    try:
        load_config(base)
    except RlhfError as error:
        return Outcome(conformance.PEFT, None, f"its base model is not here: {error.where or base}")
    return conformance.in_peft(adapter, base, reference)


def _say_accelerator() -> None:
    """Transformers imports DeepSpeed when it saves and loads, which would print its guess at the accelerator."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _card(source: Source, form: model_card.Form) -> str:
    if source.made is not None:
        return model_card.card(source.made, form, source.base)
    if deepspeed_chat_format.is_checkpoint(source.folder):
        return model_card.converted_card(source.folder.resolve().name)
    try:
        return (source.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return f"# {source.folder.resolve().name}\n"


def _examples(data: Path | None, model: Any) -> list[list[int]]:
    """Of the prepared validation data, as many as are needed and there; none of a store that is not whole."""
    if data is None or damage(data):
        return []
    prepared, some = DataStore(data), slice(reference_outputs.EXAMPLES)
    try:
        if isinstance(model, RewardModel):
            return [list(ids) for pair in prepared.pairs("validation")[some] for ids in pair.sequences]
        return [list(dialogue.ids) for dialogue in prepared.dialogues("validation")[some]]
    except DataError:  # it has no rows for this phase
        return []


def _data_beside(folder: Path) -> Path | None:
    """The prepared data of the run that a model folder lies in."""
    run = run_layout.run_of(folder)
    return run_layout.data(run) if run_layout.is_run(run) else None
