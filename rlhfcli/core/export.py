"""Turning what was trained into folders that others can load: plain transformers models and PEFT adapters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core import lora
from rlhfcli.errors import OutputError
from rlhfcli.recipe.schema import Lora


@dataclass(frozen=True)
class Adapter:
    """What is written beside the merged model when LoRA was used.

    Args:
        settings: The recipe's LoRA section.
        base_model: What the adapter belongs to.
        task_type: ``CAUSAL_LM`` or ``SEQ_CLS``.
    """

    settings: Lora
    base_model: str
    task_type: str


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its final name only when everything is in it.

    Args:
        folder: The final name. What stands there already is replaced, in two renames.

    Raises:
        OutputError: It cannot be written; what stood there before is untouched.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # a full disk is either
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot be written: {reason}", where=str(folder), hint="Is the disk full?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    adapter: Adapter | None,
    card: str,
) -> None:
    """Write a model as a plain transformers folder, with the adapter in ``adapter/`` where LoRA was used.

    Args:
        model: With its LoRA layers still in place; afterwards they are merged and gone.
        tokenizer: Saved with its chat template.
        folder: Where to.
        adapter: The LoRA part, if any.
        card: Text of ``README.md``.

    Raises:
        OutputError: The folder cannot be written.
    """
    with complete_or_absent(folder) as partial:
        if adapter is not None:
            lora.save_adapter(model, partial / "adapter", adapter.settings, adapter.base_model, adapter.task_type)
            tokenizer.save_pretrained(partial / "adapter")
            lora.merge(model)
            lora.remove(model)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        readme = partial / "README.md"
        readme.write_text(card, encoding="utf-8")
        for weights in partial.rglob("*.safetensors"):  # safetensors lets nobody else read them
            weights.chmod(readme.stat().st_mode & 0o777)


def as_reward_model(config: Any, pooling: str, rewards: tuple[float, float]) -> None:
    """Write into a config what clients of a reward model look for.

    Args:
        config: Of a ``…ForSequenceClassification``; changed in place.
        pooling: How the reward is read.
        rewards: Mean and standard deviation of the rewards of the validation answers.
    """
    config.problem_type = "regression"  # else pipelines and vLLM put a sigmoid on the score
    config.id2label = {0: "reward"}
    config.label2id = {"reward": 0}
    config.mean, config.std = rewards
    config.rlhf = {"pooling": pooling}
