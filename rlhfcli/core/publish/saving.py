"""Turning what was trained into folders that others can load: plain transformers models and PEFT adapters."""

from __future__ import annotations

import json
import shutil
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.config_checks import remove_notes
from rlhfcli.core.families.dropout import restore_config_dropout
from rlhfcli.core.model_files import reward_metadata
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, read_config
from rlhfcli.core.model_files.saved_folder import finish
from rlhfcli.core.models import lora, lora_files
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import end_token
from rlhfcli.errors import DataError, ModelError
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.run_layout import SUMS, adapter_of
from rlhfcli.recipe.schema import LoraSection

SHARD_SIZE = "5GB"  # of one file of weights, unless somebody asks for another


@dataclass(frozen=True)
class Adapter:
    """What is written beside the merged model when LoRA was used.

    Args:
        settings: The recipe's LoRA section.
        base_model: What the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``.
    """

    settings: LoraSection
    base_model: str
    task_type: str


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    adapter: Adapter | None,
    card: str,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Write a model as a plain transformers folder, with the adapter in ``adapter/`` where LoRA was used.

    Args:
        model: With its LoRA layers still in place; afterwards they are merged and gone.
        tokenizer: Saved with its chat template.
        folder: Where to.
        adapter: The LoRA part, if any.
        card: Text of ``README.md``.
        shard_size: Largest size of one file of weights, such as ``5GB``.

    Raises:
        OutputError: The folder cannot be written.
    """
    with complete_or_absent(folder) as partial:
        if adapter is not None:
            lora_files.save_adapter(model, adapter_of(partial), adapter.settings, adapter.base_model, adapter.task_type)
            tokenizer.save_pretrained(adapter_of(partial))
            if adapter.task_type == "SEQ_CLS":
                reward_metadata.write(model.config, adapter_of(partial))
            lora.merge(model)
            lora.remove(model)
            _save_stops(model, tokenizer, adapter_of(partial))
            finish(adapter_of(partial), None)
        write_model(model, tokenizer, partial, card, shard_size)


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str, shard_size: str = SHARD_SIZE
) -> None:
    """Write a whole model into a folder that is there.

    Args:
        model: Without LoRA layers.
        tokenizer: Saved with its chat template.
        folder: Where to.
        card: Text of ``README.md``.
        shard_size: Largest size of one file of weights.
    """
    restore_config_dropout(model)
    remove_notes(model.config)
    stop_at_end_token(model, tokenizer)
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    finish(folder, card)


def stop_at_end_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a language model's own settings for generation stop at the end token of its chat template, too.

    Args:
        model: Changed in place; of a reward model nothing is.
        tokenizer: The template may end answers with another token than the tokenizer's EOS: ChatML on a base model.
    """
    settings = model.generation_config if model.can_generate() else None
    if settings is None or not tokenizer.chat_template:
        return
    try:
        end = end_token(tokenizer)
    except (DataError, RowProblem):  # a template may end answers with words, or refuse
        return
    known = settings.eos_token_id
    before = list(known) if isinstance(known, list | tuple) else [known] if known is not None else []
    if end not in before:
        settings.eos_token_id = [end, *before] if before else end


def _save_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Put the settings for generation beside an adapter: those of its base model do not know the end token."""
    if model.can_generate() and model.generation_config is not None:
        stop_at_end_token(model, tokenizer)
        model.generation_config.save_pretrained(folder)


def rehearse_saving(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save all but the weights, so that what cannot be saved is known before training.

    Args:
        model: The model that will be saved.
        tokenizer: Its tokenizer.

    Raises:
        ModelError: Something cannot be saved.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-save-") as folder:
        try:
            for part in (deepcopy(model.config), getattr(model, "generation_config", None), tokenizer):
                if part is not None:
                    part.save_pretrained(folder)
        except OSError:  # of the folder for temporary files
            return
        except Exception as error:  # whatever a family's own code raises
            reason = " ".join(str(error).split())[:300]
            where = str(model.config.name_or_path)
            raise ModelError(f"the trained model could not be saved: {reason}", where=where) from error


@dataclass(frozen=True)
class Copy:
    """An adapter that is exported.

    Args:
        source: Its folder: PEFT's files.
        base_model: Hub name or folder of the model that it belongs to, as it can be found now.
        merged: The model that both make together.
        tokenizer: Saved with it.
    """

    source: Path
    base_model: str
    merged: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def copy_adapter(adapter: Copy, folder: Path, card: str) -> None:
    """Copy an adapter into a folder that is there.

    Args:
        adapter: What is copied.
        folder: Where to.
        card: Text of ``README.md``.

    Raises:
        ModelError: The adapter is damaged.
    """
    settings = read_config(adapter.source) | {"base_model_name_or_path": adapter.base_model}
    for file in sorted(adapter.source.iterdir()):
        if file.is_file() and file.name != SUMS and file.suffix not in (".bin", ".pt", ".pth", ".py"):
            shutil.copyfile(file, folder / file.name)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    adapter.tokenizer.save_pretrained(folder)
    _save_stops(adapter.merged, adapter.tokenizer, folder)
    finish(folder, card)
