"""From what was trained to a folder for others: which model, in which format, with which card; and does it hold.

of_run, of_folder   what is exported
write               the export; returns what it has to give elsewhere
check               loads a folder as other programs do, and compares
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from rlhfcli.core import cards, cross_check, deepspeed_chat, expected, export
from rlhfcli.core.adapted import base_of, is_adapter, load_adapted, read_json
from rlhfcli.core.cross_check import Outcome, Report
from rlhfcli.core.expected import Reference
from rlhfcli.core.model import is_reward_model, load_causal_lm, load_config, load_for_scoring, load_tokenizer, resolve
from rlhfcli.core.reward_model import RewardModel
from rlhfcli.data.manifest import MANIFEST, damage
from rlhfcli.data.store import Prepared
from rlhfcli.errors import DataError, ModelError, OutputError, RlhfError
from rlhfcli.recipe.run_folder import RunFolder
from rlhfcli.recipe.schema import Model

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
    made: cards.Trained | None = None
    base: str = ""

    @property
    def trusted(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.made is not None and self.made.recipe.model.trust_remote_code


def of_run(run: RunFolder, phase: Literal["sft", "reward"]) -> Source:
    """The model that a phase of a run has made.

    Raises:
        ModelError: It is not there yet.
    """
    folder = run.sft if phase == "sft" else run.reward
    if not run.finished(phase):
        raise ModelError("there is nothing to export yet", where=str(folder), hint=f"Run {_RUN_FIRST[phase]} first.")
    noted = (run.record().get("parts") or {}).get(phase) or {}
    made = cards.Trained(
        run.recipe,
        phase,
        steps=int(noted.get("steps") or 0),
        tokens=int(noted.get("tokens") or 0),
        validation={key: value for key, value in noted.items() if key.startswith("eval_")},
        sources=read_json(run.data / MANIFEST).get("sources") or (),
        measured=read_json(run.evaluation / f"{phase}.json") or None,
        best=noted.get("best") or {},
    )
    tuned = phase == "reward" and run.recipe.reward.init_from == "sft"
    base = str(run.sft.resolve()) if tuned else resolve(run.recipe.model.name)
    return Source(folder, run.data, made, base)


def of_folder(folder: Path) -> Source:
    """A model folder that is not known to belong to a run.

    Raises:
        ModelError: There is no such folder.
    """
    if not folder.is_dir():
        hint = "Give sft or reward, a phase of the run, or the folder of a model."
        raise ModelError("there is no such folder", where=str(folder), hint=hint)
    return Source(folder, _data_beside(folder), None, base_of(folder / "adapter"))


def write(source: Source, target: Path, form: cards.Form, shard_size: str) -> Reference:
    """Export.

    Args:
        source: What.
        target: Where to.
        form: ``merged``, ``adapter`` or ``deepspeed-chat``.
        shard_size: Largest file of weights.

    Returns:
        What has to come out of it elsewhere.

    Raises:
        ModelError: It cannot be loaded, or has no such form.
        OutputError: The folder cannot be written.
    """
    _say_accelerator()
    there, of = target.resolve(), source.folder.resolve()
    if there == of or there in of.parents or of in there.parents:
        what = "this is the folder that is exported, or one around it or in it"
        raise OutputError(what, where=str(target), hint="Choose another one.")
    adapter = source.folder / "adapter"
    if form == "adapter" and not adapter.is_dir():
        hint = "It was trained in full, or its adapter was not kept: --format merged writes the whole model."
        raise ModelError("there is no adapter to export", where=str(adapter), hint=hint)
    model, tokenizer = _load(source.folder, trusted=source.trusted)
    if form == "deepspeed-chat" and not isinstance(model, RewardModel):
        hint = "Its phase 3 reads a plain language model as it is: --format merged."
        raise ModelError("only reward models have a form of DeepSpeed-Chat's", where=str(source.folder), hint=hint)
    reference = expected.reference(model, tokenizer, _examples(source.data, model))
    text = _card(source, form)
    if form == "adapter":
        export.copy_adapter(adapter, target, source.base, text)
    elif form == "deepspeed-chat":
        deepspeed_chat.save(model, tokenizer, target, text)
    else:
        plain = model.model if isinstance(model, RewardModel) else model
        export.save_model(plain, tokenizer, target, None, text, shard_size)
    return reference


def check(folder: Path, reference: Reference | None = None) -> Report:
    """Load a folder as other programs do, and compare.

    Args:
        folder: A model, an adapter, or a reward model of DeepSpeed-Chat's.
        reference: What has to come out; ``None``: what this program makes of the folder itself.

    Returns:
        What every way of loading it gives.

    Raises:
        ModelError: It cannot be loaded at all.
    """
    _say_accelerator()
    if not folder.is_dir():
        raise ModelError("there is no such folder", where=str(folder))
    adapter = folder if is_adapter(folder) else folder / "adapter"
    if reference is None:
        model, tokenizer = _load(folder)
        reference = expected.reference(model, tokenizer, _examples(_data_beside(folder), model))
        del model
    if adapter == folder:
        outcomes = [_in_peft(folder, reference)]
    elif deepspeed_chat.is_checkpoint(folder):
        outcomes = [cross_check.in_deepspeed_chat(folder, reference)]
    else:
        outcomes = list(cross_check.in_transformers(folder, reference))
        outcomes += [_in_peft(adapter, reference)] if adapter.is_dir() else []
    return Report(tuple(outcomes), reference.about)


def _load(folder: Path, *, trusted: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    if deepspeed_chat.is_checkpoint(folder):
        return deepspeed_chat.load(folder)
    if is_adapter(folder):
        return load_adapted(folder, trust_remote_code=trusted), load_tokenizer(str(folder))
    config = load_config(str(folder), trust_remote_code=trusted)
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trusted)
    if not is_reward_model(config):
        return load_causal_lm(str(folder), trust_remote_code=trusted), tokenizer
    section = Model(name=str(folder), dtype="fp32", trust_remote_code=trusted)
    return RewardModel(load_for_scoring(section, str(folder))).eval(), tokenizer


def _in_peft(adapter: Path, reference: Reference) -> Outcome:
    base = base_of(adapter)
    try:
        load_config(base)
    except RlhfError as error:
        return Outcome(cross_check.PEFT, None, f"its base model is not here: {error.where or base}")
    return cross_check.in_peft(adapter, base, reference)


def _say_accelerator() -> None:
    """Transformers imports DeepSpeed when it saves and loads, which would print its guess at the accelerator."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _card(source: Source, form: cards.Form) -> str:
    if source.made is not None:
        return cards.card(source.made, form, source.base)
    if deepspeed_chat.is_checkpoint(source.folder):
        return cards.converted_card(source.folder.resolve().name)
    try:
        return (source.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return f"# {source.folder.resolve().name}\n"


def _examples(data: Path | None, model: Any) -> list[list[int]]:
    """Of the prepared validation data, as many as are needed and there; none of a store that is not whole."""
    if data is None or damage(data):
        return []
    prepared, some = Prepared(data), slice(expected.EXAMPLES)
    try:
        if isinstance(model, RewardModel):
            return [list(ids) for pair in prepared.pairs("validation")[some] for ids in pair.sequences]
        return [list(dialogue.ids) for dialogue in prepared.dialogues("validation")[some]]
    except DataError:  # it has no rows for this phase
        return []


def _data_beside(folder: Path) -> Path | None:
    """The prepared data of the run that a model folder lies in."""
    run = folder.resolve().parent.parent
    return run / "data" if (run / "run.json").is_file() else None
