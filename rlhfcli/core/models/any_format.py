"""Loading a model from whatever a folder holds: a whole model, an adapter of one, or DeepSpeed-Chat's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhfcli.core.hardware import computes_bf16, device
from rlhfcli.core.model_files import deepspeed_chat_format, peft_adapters, peft_format, reward_metadata
from rlhfcli.core.model_files.model_folder import TensorInFile, tensors_in
from rlhfcli.core.model_files.peft_format import ADAPTER_CONFIG, base_of, is_adapter, is_reward_adapter
from rlhfcli.core.model_files.reward_heads import Head, choose_row, find_head, set_head
from rlhfcli.core.models import deepspeed_chat, lora, lora_files, lora_targets
from rlhfcli.core.models import loading as models
from rlhfcli.core.models import reward_model as whole_reward_model
from rlhfcli.core.models.reward_model import RewardModel, as_reward_model
from rlhfcli.core.models.sequence_classifier import load_classifier, load_for_scoring, set_one_output
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection


def load_language_model(name: str, *, trust_remote_code: bool = False, dropout: float = 0.0) -> PreTrainedModel:
    """Load a language model.

    Args:
        name: Hub name, or folder of a whole model or of an adapter.
        trust_remote_code: Run code that comes with the model.
        dropout: The dropout rate, in the place of the model's own.

    Returns:
        The model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or it is a reward model.
    """
    folder = Path(models.resolve(name))
    if not is_adapter(folder):
        return models.load_causal_lm(name, trust_remote_code=trust_remote_code, dropout=dropout)
    config = peft_format.config_of_kind(folder, reward=False)
    try:
        base = load_language_model(base_of(folder), trust_remote_code=trust_remote_code, dropout=dropout)
    except ModelError as error:
        raise _about_base(folder, error) from error
    model: PreTrainedModel = _merge(base, folder, config)
    return model


def load_reward_model(name: str, *, label: str | int | None = None, trust_remote_code: bool = False) -> RewardModel:
    """Load a reward model.

    Args:
        name: Hub name, or folder of a whole model, of an adapter, or in DeepSpeed-Chat's format.
        label: The output that is the reward, where the model has several: its name or its number.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The reward model in evaluation mode; an adapter is merged into its base model.

    Raises:
        ModelError: It cannot be loaded, or it is a language model.
    """
    section = ModelSection(name=name, dtype="fp32", label=label, trust_remote_code=trust_remote_code)
    if is_adapter(name):
        return _adapted_reward_model(section, Path(name))
    if deepspeed_chat_format.is_checkpoint(Path(name)):
        return deepspeed_chat.load(Path(name))[0]
    return whole_reward_model.load_reward_model(name, label=label, trust_remote_code=trust_remote_code)


def load_reward_model_to_train(section: ModelSection, init_from: str, seed: int = 0) -> RewardModel:
    """Load a reward model to train; a language model gets a new head.

    Args:
        section: The recipe's model section.
        init_from: Hub name, or folder of a language model or a reward model in any of the formats.
        seed: Seed of a new head's weights.

    Returns:
        The reward model with float32 weights; its ``head`` describes where the head comes from.

    Raises:
        ModelError: It cannot be loaded, or has several outputs of which ``model.label`` names none.
    """
    folder = Path(models.resolve(init_from))
    if is_adapter(folder):
        return _adapted_reward_model(section, folder, seed)
    if not deepspeed_chat_format.is_checkpoint(folder):
        return whole_reward_model.reward_model_to_train(section, init_from, seed)
    _refuse_zero3(folder)
    model = deepspeed_chat.load(folder)[0]
    head = f"the head of {init_from} ({deepspeed_chat_format.HEAD})"
    return RewardModel(model.model, bf16=computes_bf16(section.dtype), head=head).eval()


def is_reward_model(name: str, *, trust_remote_code: bool = False) -> bool:
    """Check whether a model gives scores: a whole model, whatever its head is called, or an adapter.

    Args:
        name: Hub name or folder.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ModelError: It cannot be read.
    """
    folder = Path(models.resolve(name))
    if is_adapter(folder):
        return is_reward_adapter(folder)
    config = models.load_config(name, trust_remote_code=trust_remote_code)
    return models.is_reward_model(config) or find_head(models.resolve(name), config) is not None


def load_base_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load the config of a model, or of an adapter's base model.

    Args:
        name: Hub name or folder.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The transformers config.

    Raises:
        ModelError: There is none.
    """
    folder = Path(models.resolve(name))
    if not is_adapter(folder):
        return models.load_config(name, trust_remote_code=trust_remote_code)
    peft_format.read_config(folder)
    try:
        return models.load_config(base_of(folder), trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise _about_base(folder, error) from error


def refuse_lora(section: ModelSection, base: str) -> None:
    """Refuse to train an adapter on a base on which other programs could not load it.

    Args:
        section: The recipe's model section.
        base: Hub name or folder of the model that is trained.

    Raises:
        ModelError: The base is an adapter itself, has DeepSpeed-Chat's format, or is one output of several.
    """
    folder = Path(models.resolve(base))
    reason = "is an adapter itself" if is_adapter(folder) else ""
    reason = reason or ("has DeepSpeed-Chat's format" if deepspeed_chat_format.is_checkpoint(folder) else "")
    reason = reason or ("has several outputs" if section.label is not None else "")
    if reason:
        raise ModelError(
            f"no adapter can be trained on a base that {reason}: other programs could not load the adapter",
            where=base,
            hint="Write it as a plain model first: rlhf export FOLDER TO, then model.name=TO. Or train without lora.",
        )


def _adapted_reward_model(section: ModelSection, folder: Path, seed: int | None = None) -> RewardModel:
    """Load a reward model from its adapter; with a seed, also from a language model's, which gets a new head."""
    training = seed is not None
    if training:
        _refuse_zero3(folder)
    reward = is_reward_adapter(folder) if training else True
    config = peft_format.config_of_kind(folder, reward=reward)
    head = tensors_in(peft_format.weights_of(folder)).get(peft_format.HEAD)
    base = base_of(folder)
    try:
        model, base_head = _load_base(section, base, head)
    except ModelError as error:
        raise _about_base(folder, error) from error
    if head is None and not base_head and not training:
        what = "neither the adapter nor its base model has a head that gives scores"
        raise ModelError(what, where=str(folder), hint=f"The base model is {base}.")
    model = _merge(model, folder, config)
    about = f"the head of {folder}" if head else base_head or "a new head"
    if head and head.shape[0] > 1:
        about = _keep_one_output(model, head, section.label, str(folder))
    scored = RewardModel(model, bf16=computes_bf16(section.dtype), head=about).eval()
    if metadata := reward_metadata.read(folder):
        as_reward_model(scored.config, metadata.pooling, (metadata.mean, metadata.std))
    if seed is not None and head is None and not base_head:
        set_seed(seed)
        scored.init_head()
    return scored


def _load_base(section: ModelSection, base: str, head: TensorInFile | None) -> tuple[PreTrainedModel, str]:
    """Load the base of a reward adapter with as many outputs as the adapter's head; return it and its own head."""
    if head is None or head.shape[0] == 1:
        loaded = load_for_scoring(section, base)
        return loaded.model, loaded.head
    config = models.load_config(base, trust_remote_code=section.trust_remote_code)
    config.num_labels = head.shape[0]
    model = load_classifier(section, base, config, new_head=True)
    return model.to(device()).eval(), ""


def _keep_one_output(model: PreTrainedModel, head: TensorInFile, label: str | int | None, where: str) -> str:
    """Reduce a model to the chosen output of its adapter's head; return a description of it."""
    labels = tuple(f"LABEL_{number}" for number in range(head.shape[0]))
    row = choose_row(Head(peft_format.HEAD, head, None, labels), label, None, where)
    set_head(model, row)
    set_one_output(model.config)
    return row.about


def _merge(model: Any, folder: Path, config: dict[str, Any]) -> Any:
    """Merge an adapter into its base model: plain LoRA by our own code, everything else by PEFT."""
    features = peft_format.beyond_plain(config)
    if not features:
        peft_format.settings_of(config, str(folder / ADAPTER_CONFIG))
        _, others = lora_targets.select_peft_targets(model, config)
        features = [f"target_modules: {', '.join(others)}"] if others else []
    if features:
        return peft_adapters.merge_with_peft(model, folder, features, tensors_in(peft_format.weights_of(folder)))
    lora_files.load_adapter(model, folder)
    lora.merge(model)
    lora.remove(model)
    return model


def _refuse_zero3(folder: Path) -> None:
    if is_deepspeed_zero3_enabled():
        raise ModelError(
            "at ZeRO stage 3 only whole models of the plain form can be loaded",
            where=str(folder),
            hint="Write it in that form first: rlhf export FOLDER TO, then model.name=TO.",
        )


def _about_base(adapter: Path, error: ModelError) -> ModelError:
    """Return the same error as one of an adapter's base model."""
    hint = f"{adapter / ADAPTER_CONFIG} names it as base_model_name_or_path: if it was moved, write its new path."
    return ModelError(f"the adapter's base model: {error.what}", where=error.where, hint=hint)
