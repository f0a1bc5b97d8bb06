"""Saving trained models in folders that other programs load: plain transformers models and PEFT adapters."""

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
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, TaskType, read_config
from rlhfcli.core.model_files.saved_folder import finish
from rlhfcli.core.models import lora, lora_files
from rlhfcli.data.dialogues.turns import RowProblem
from rlhfcli.data.encoding.encode import end_token
from rlhfcli.errors import DataError, ModelError
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.run_layout import SUMS, adapter_of
from rlhfcli.recipe.schema import LoraSection

SHARD_SIZE = "5GB"  # default of the largest size of one file of weights


@dataclass(frozen=True)
class Adapter:
    """Settings of the adapter that is saved beside the merged model.

    Args:
        settings: The recipe's LoRA section.
        base_model: Hub name or folder of the model that the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``.
    """

    settings: LoraSection
    base_model: str
    task_type: TaskType


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    adapter: Adapter | None,
    card: str,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Save a model as a plain transformers folder, with its adapter in ``adapter/`` if it was trained with LoRA.

    Args:
        model: The model; its LoRA layers are merged and removed.
        tokenizer: The tokenizer, with its chat template.
        folder: The folder to write; it appears when it is complete.
        adapter: Settings of the adapter; ``None`` for a model without LoRA layers.
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
            _save_generation_config(model, tokenizer, adapter_of(partial))
            finish(adapter_of(partial), None)
        write_model(model, tokenizer, partial, card, shard_size)


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str, shard_size: str = SHARD_SIZE
) -> None:
    """Save a whole model in an existing folder.

    Args:
        model: A model without LoRA layers.
        tokenizer: The tokenizer, with its chat template.
        folder: An existing folder.
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
    """Add the end token of the chat template to the tokens at which a language model stops generating.

    Args:
        model: The model; its generation config is changed in place. A reward model has none.
        tokenizer: Its template may end answers with another token than EOS, as ChatML does on a base model.
    """
    settings = model.generation_config if model.can_generate() else None
    if settings is None or not tokenizer.chat_template:
        return
    try:
        end = end_token(tokenizer)
    except (DataError, RowProblem):  # the template ends answers with words, or refuses the dialogue
        return
    known = settings.eos_token_id
    stops = list(known) if isinstance(known, list | tuple) else [known] if known is not None else []
    if end not in stops:
        settings.eos_token_id = [end, *stops] if stops else end


def _save_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the generation config beside an adapter: that of the base model lacks the end token."""
    if model.can_generate() and model.generation_config is not None:
        stop_at_end_token(model, tokenizer)
        model.generation_config.save_pretrained(folder)


def rehearse_saving(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save everything but the weights in a temporary folder, so that errors come before the training.

    Args:
        model: The model that will be saved.
        tokenizer: The tokenizer that will be saved.

    Raises:
        ModelError: The config or the tokenizer cannot be saved.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-save-") as folder:
        try:
            for part in (deepcopy(model.config), getattr(model, "generation_config", None), tokenizer):
                if part is not None:
                    part.save_pretrained(folder)
        except OSError:  # the temporary folder is full or read-only
            return
        except Exception as error:  # a family's own code may raise arbitrary exceptions
            reason = " ".join(str(error).split())[:300]
            where = str(model.config.name_or_path)
            raise ModelError(f"the trained model could not be saved: {reason}", where=where) from error


@dataclass(frozen=True)
class AdapterCopy:
    """An adapter to export.

    Args:
        source: The folder of the adapter.
        base_model: Current hub name or folder of the model that it belongs to.
        merged: The base model with the adapter merged into it.
        tokenizer: The tokenizer to save with it.
    """

    source: Path
    base_model: str
    merged: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def copy_adapter(adapter: AdapterCopy, folder: Path, card: str) -> None:
    """Copy an adapter into an existing folder.

    Args:
        adapter: The adapter.
        folder: An existing folder.
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
    _save_generation_config(adapter.merged, adapter.tokenizer, folder)
    finish(folder, card)
