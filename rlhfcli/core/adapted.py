"""Loading what a folder holds, be it a whole model or an adapter that belongs to one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlhfcli.core import lora
from rlhfcli.core.adapter_files import ADAPTER_CONFIG, read_adapter
from rlhfcli.core.export import REWARDS, as_reward_model
from rlhfcli.core.model import load_causal_lm, load_for_scoring
from rlhfcli.core.reward_model import RewardModel, load_reward_model
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import Model


def is_adapter(name: str | Path) -> bool:
    """Whether a folder holds an adapter; transformers, too, looks for this file first."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def language_model(name: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a language model, from its folder or from its adapter's.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or gives scores.
    """
    if not is_adapter(name):
        return load_causal_lm(name, trust_remote_code=trust_remote_code)
    model = _merged(Path(name), trust_remote_code, "CAUSAL_LM")
    assert isinstance(model, PreTrainedModel)
    return model


def reward_model(name: str, *, trust_remote_code: bool = False) -> RewardModel:
    """Load a reward model, from its folder or from its adapter's.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The reward model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or gives no scores.
    """
    if not is_adapter(name):
        return load_reward_model(name, trust_remote_code=trust_remote_code)
    model = _merged(Path(name), trust_remote_code, "SEQ_CLS")
    assert isinstance(model, RewardModel)
    return model


def load_adapted(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load an adapter on its base model, not merged.

    Args:
        folder: The adapter's.
        trust_remote_code: Run code that comes with the base model.

    Returns:
        A language model, or a ``RewardModel``, as the adapter says.

    Raises:
        ModelError: The adapter is damaged, its base model is not here, or they do not fit together.
    """
    config, _, _ = read_adapter(folder)
    base = base_of(folder)
    if config.get("task_type") != "SEQ_CLS":
        model = load_causal_lm(base, trust_remote_code=trust_remote_code)
        lora.load_adapter(model, folder)
        return model
    section = Model(name=base, dtype="fp32", trust_remote_code=trust_remote_code)
    scored = RewardModel(load_for_scoring(section, base)).eval()
    lora.load_adapter(scored.model, folder)
    if (folder / REWARDS).is_file():  # PEFT's own have none
        as_reward_model(scored.config, *_rewards(folder / REWARDS))
    return scored


def base_of(adapter: Path) -> str:
    """The base model that an adapter names; in a run, the fine-tuned model of this run even if it was moved."""
    named = str(read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    moved = adapter.resolve().parent.parent.parent / "sft" / "final"
    if Path(named).parts[-2:] == ("sft", "final") and not Path(named).is_dir() and moved.is_dir():
        return str(moved)
    return named


def _rewards(file: Path) -> tuple[str, tuple[float, float]]:
    """How rewards are read, and their mean and standard deviation."""
    match read_json(file):
        case {"pooling": "last" | "mean" | "tokenwise" as pooling, "mean": float(mean), "std": float(std)}:
            return pooling, (mean, std)
    raise ModelError(
        "it does not say how rewards are read",
        where=str(file),
        hint="Export the adapter again: rlhf export reward FOLDER --format adapter.",
    )


def read_json(file: Path) -> dict[str, Any]:
    """What a file says; empty where it is not there, or cannot be read."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _merged(folder: Path, trust_remote_code: bool, task_type: str) -> Any:
    found = read_adapter(folder)[0].get("task_type")
    if found != task_type:
        kinds = {"SEQ_CLS": "a reward model: it gives scores, it cannot talk", "CAUSAL_LM": "a language model"}
        raise ModelError(
            f"this is the adapter of {kinds.get(str(found), 'another kind of model')}",
            where=str(folder),
            hint=f"Give one whose adapter_config.json says task_type: {task_type}.",
        )
    model = load_adapted(folder, trust_remote_code=trust_remote_code)
    plain = model.model if isinstance(model, RewardModel) else model
    lora.merge(plain)
    lora.remove(plain)
    return model
