"""Loading what a folder holds: a whole model, an adapter that belongs to one, or DeepSpeed-Chat's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhfcli.core.hardware import computes_bf16, device
from rlhfcli.core.model_files import deepspeed_chat_format, peft_adapters
from rlhfcli.core.model_files.model_folder import Found, tensors_in
from rlhfcli.core.model_files.peft_format import (  # fmt: skip
    ADAPTER_CONFIG,
    REWARDS,
    base_of,
    beyond_plain,
    is_adapter,
    read_config,
    read_json,
    settings_of,
    weights_of,
)
from rlhfcli.core.model_files.reward_heads import Head, chosen_row, find_head, put
from rlhfcli.core.models import deepspeed_chat, lora, lora_files, lora_targets
from rlhfcli.core.models import loading as models
from rlhfcli.core.models import reward_model as rewarding
from rlhfcli.core.models.reward_model import RewardModel, as_reward_model
from rlhfcli.core.models.sequence_classifier import load_classifier, load_for_scoring, set_one_output
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection

_KINDS = {True: "a reward model: it gives scores, it cannot talk", False: "a language model"}
_TASKS = {True: "SEQ_CLS", False: "CAUSAL_LM"}
_HEAD = "base_model.model.score.weight"


def language_model(name: str, *, trust_remote_code: bool = False, dropout: float = 0.0) -> PreTrainedModel:
    """Load a language model, from its folder or from its adapter's.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with the model.
        dropout: Sets the dropout of the model.

    Returns:
        The model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or gives scores.
    """
    if not is_adapter(models.resolve(name)):
        return models.load_causal_lm(name, trust_remote_code=trust_remote_code, dropout=dropout)
    folder = Path(models.resolve(name))
    config = _config_of(folder, scores=False)
    try:
        base = language_model(base_of(folder), trust_remote_code=trust_remote_code, dropout=dropout)
    except ModelError as error:
        raise _of_base(folder, error) from error
    model: PreTrainedModel = _merge(base, folder, config)
    return model


def reward_model(name: str, *, label: str | int | None = None, trust_remote_code: bool = False) -> RewardModel:
    """Load a reward model, from its folder or from its adapter's.

    Args:
        name: Folder or hub name.
        label: Which of several outputs is the reward: its name or its number.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The reward model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or gives no scores.
    """
    section = ModelSection(name=name, dtype="fp32", label=label, trust_remote_code=trust_remote_code)
    if is_adapter(name):
        return _adapted_reward_model(section, Path(name))
    if deepspeed_chat_format.is_checkpoint(Path(name)):
        return deepspeed_chat.load(Path(name))[0]
    return rewarding.load_reward_model(name, label=label, trust_remote_code=trust_remote_code)


def reward_model_to_train(section: ModelSection, init_from: str, seed: int = 0) -> RewardModel:
    """A reward model to train, with the head that a folder has; one that has none gets a new one.

    Args:
        section: The recipe's model section.
        init_from: Hub name or folder of a language model or a reward model, an adapter, DeepSpeed-Chat's.
        seed: Of a new head's weights.

    Returns:
        The reward model, float32 weights; its ``head`` says which.

    Raises:
        ModelError: It cannot be loaded, or has several outputs of which ``model.label`` names none.
    """
    folder = Path(models.resolve(init_from))
    if is_adapter(folder):
        return _adapted_reward_model(section, folder, seed)
    if not deepspeed_chat_format.is_checkpoint(folder):
        return rewarding.reward_model_to_train(section, init_from, seed)
    _refuse_pieces(folder)
    model = deepspeed_chat.load(folder)[0]
    bf16 = computes_bf16(section.dtype)
    return RewardModel(model.model, bf16=bf16, head=f"the head of {init_from} ({deepspeed_chat_format.HEAD})").eval()


def is_reward_model(name: str, *, trust_remote_code: bool = False) -> bool:
    """Whether a folder holds what gives scores: a whole model, whatever its head is called, or an adapter.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ModelError: It cannot be read.
    """
    folder = Path(models.resolve(name))
    if is_adapter(folder):
        return gives_scores(folder)
    config = models.load_config(name, trust_remote_code=trust_remote_code)
    return models.is_reward_model(config) or find_head(models.resolve(name), config) is not None


def config_of(name: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a model; of an adapter, that of its base model.

    Args:
        name: Folder or hub name.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ModelError: There is none.
    """
    folder = Path(models.resolve(name))
    if not is_adapter(folder):
        return models.load_config(name, trust_remote_code=trust_remote_code)
    read_config(folder)
    try:
        return models.load_config(base_of(folder), trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise _of_base(folder, error) from error


def gives_scores(adapter: Path) -> bool:
    """Whether an adapter belongs to a reward model; one that does not say is judged by its tensors.

    Raises:
        ModelError: It belongs to neither kind, or cannot be read.
    """
    config = read_config(adapter)
    task = config.get("task_type")
    if task not in (*_TASKS.values(), None):
        raise ModelError(
            f"this is the adapter of another kind of model: task_type {task}",
            where=str(adapter),
            hint="Reward models have SEQ_CLS in adapter_config.json, language models CAUSAL_LM.",
        )
    return task == _TASKS[True] or (task is None and _HEAD in tensors_in(weights_of(adapter)))


def _config_of(folder: Path, *, scores: bool) -> dict[str, Any]:
    """The configuration of an adapter of one kind.

    Raises:
        ModelError: It is of the other kind, or its base model is itself.
    """
    found = gives_scores(folder)
    if found != scores:
        raise ModelError(
            f"this is the adapter of {_KINDS[found]}",
            where=str(folder),
            hint=f"Give one whose adapter_config.json says task_type: {_TASKS[scores]}.",
        )
    base = base_of(folder)
    if not base or Path(base).resolve() == folder.resolve():
        what = f"the adapter does not say what its base model is: base_model_name_or_path is {base!r}"
        raise ModelError(what, where=str(folder / ADAPTER_CONFIG))
    return read_config(folder)


def _adapted_reward_model(section: ModelSection, folder: Path, seed: int | None = None) -> RewardModel:
    """A reward model from its adapter; with a seed, for training: that of a language model gets a new head then."""
    bf16 = computes_bf16(section.dtype)
    training = seed is not None
    if training:
        _refuse_pieces(folder)
    config = _config_of(folder, scores=True if not training else gives_scores(folder))
    head = tensors_in(weights_of(folder)).get(_HEAD)
    base = base_of(folder)
    try:
        plain, known = _body(section, base, head)
    except ModelError as error:
        raise _of_base(folder, error) from error
    if head is None and not known and not training:
        what = "neither the adapter nor its base model has a head that gives scores"
        raise ModelError(what, where=str(folder), hint=f"The base model is {base}.")
    plain = _merge(plain, folder, config)
    about = f"the head of {folder}" if head else known or "a new head"
    if head and head.shape[0] > 1:
        labels = tuple(f"LABEL_{number}" for number in range(head.shape[0]))
        row = chosen_row(Head(_HEAD, head, None, labels), section.label, None, str(folder))
        put(plain, row)
        set_one_output(plain.config)
        about = row.about
    scored = RewardModel(plain, bf16=bf16, head=about).eval()
    if (folder / REWARDS).is_file():  # PEFT's own have none
        as_reward_model(scored.config, *_rewards(folder / REWARDS))
    if seed is not None and head is None and not known:
        set_seed(seed)
        scored.init_head()
    return scored


def _body(section: ModelSection, base: str, head: Found | None) -> tuple[PreTrainedModel, str]:
    """The base of a reward adapter, with as many outputs as the adapter's head has; and where its own head is from."""
    if head is None or head.shape[0] == 1:
        loaded = load_for_scoring(section, base)
        return loaded.model, loaded.head
    config = models.load_config(base, trust_remote_code=section.trust_remote_code)
    config.num_labels = head.shape[0]
    model = load_classifier(section, base, config, new_head=True)
    return model.to(device()).eval(), ""


def _merge(model: Any, folder: Path, config: dict[str, Any]) -> Any:
    """Merge an adapter into its base model: plain LoRA by ourselves, everything else by PEFT."""
    why = beyond_plain(config)
    if not why:
        settings_of(config, str(folder / ADAPTER_CONFIG))
        _, others = lora_targets.select_peft_targets(model, config)
        why = [f"target_modules: {', '.join(others)}"] if others else []
    if why:
        return peft_adapters.merged(model, folder, why, tensors_in(weights_of(folder)))
    lora_files.load_adapter(model, folder)
    lora.merge(model)
    lora.remove(model)
    return model


def refuse_lora(section: ModelSection, base: str) -> None:
    """Refuse to train an adapter on what others could not put it on.

    Args:
        section: The recipe's model section.
        base: Hub name or folder of what is trained.

    Raises:
        ModelError: It is an adapter itself, DeepSpeed-Chat's, or one output of several.
    """
    folder = Path(models.resolve(base))
    why = "is an adapter itself" if is_adapter(folder) else ""
    why = why or ("has DeepSpeed-Chat's format" if deepspeed_chat_format.is_checkpoint(folder) else "")
    why = why or ("has several outputs" if section.label is not None else "")
    if why:
        raise ModelError(
            f"no adapter can be trained on a base that {why}: others could not put it on",
            where=base,
            hint="Write it as a plain model first: rlhf export FOLDER TO, then model.name=TO. Or train without lora.",
        )


def _refuse_pieces(folder: Path) -> None:
    if is_deepspeed_zero3_enabled():
        raise ModelError(
            "at ZeRO stage 3 only whole models of the plain form can be loaded",
            where=str(folder),
            hint="Write it in that form first: rlhf export FOLDER TO, then model.name=TO.",
        )


def _of_base(adapter: Path, error: ModelError) -> ModelError:
    """The same error, said of the base model of an adapter."""
    named = f"{adapter / ADAPTER_CONFIG} names it as base_model_name_or_path: if it was moved, write there where it is."
    return ModelError(f"the adapter's base model: {error.what}", where=error.where, hint=named)


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
