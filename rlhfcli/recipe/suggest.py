"""Suggestions for unknown keys of a recipe: other tools' names, misspellings, keys of other sections."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from rlhfcli.files.run_layout import PHASES
from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe.schema import Recipe

# Other tools: LLaMA-Factory, axolotl, TRL, torchtune, litgpt, OpenRLHF, DeepSpeed-Chat, transformers.
# "*." stands for sft or reward: whichever of the two the key was found in, else both.
_FOREIGN = {
    "*.learning_rate": "lr learningrate max_lr peak_lr actor_learning_rate critic_learning_rate",
    "*.epochs": "num_train_epochs num_epochs n_epochs max_epochs epoch nepochs",
    "*.batch_size": "global_batch_size train_batch_size effective_batch_size total_batch_size bs",
    "*.max_steps": "max_train_steps num_steps total_steps num_iterations max_steps_per_epoch",
    "*.schedule.name": "lr_scheduler_type lr_scheduler scheduler lr_schedule",
    "*.schedule.warmup_ratio": "lr_warmup_ratio warmup_fraction lr_warmup",
    "*.max_grad_norm": "gradient_clipping clip_grad grad_clip max_norm gradient_clip_val",
    "*.betas": "adam_betas adam_beta1 adam_beta2 beta1 beta2",
    "*.weight_decay": "wd l2 decay",
    "*.lora.rank": "lora_r lora_dim lora_rank r peft_lora_r",
    "*.lora.alpha": "lora_alpha lora_scaling peft_lora_alpha",
    "*.lora.dropout": "lora_dropout peft_lora_dropout",
    "*.lora.targets": "lora_target lora_targets lora_target_modules target_modules lora_module_name "
    "lora_target_linear lora_modules",
    "*.lora.rslora": "use_rslora use_rs_lora",
    "model.name": "model_name_or_path base_model model_name pretrain checkpoint_dir model_path model_id "
    "hf_model pretrained_model_name_or_path name_or_path actor_model_name_or_path",
    "model.dtype": "torch_dtype precision bf16 fp16 mixed_precision data_type",
    "model.dropout": "disable_dropout attention_dropout hidden_dropout",
    "model.gradient_checkpointing": "activation_checkpointing enable_activation_checkpointing "
    "grad_checkpoint gradient_checkpoint",
    "data.sources": "dataset datasets data_path train_file dataset_name train_data data_files",
    "data.max_length": "cutoff_len max_seq_len max_seq_length sequence_len max_len block_size seq_len "
    "model_max_length context_length",
    "data.template": "chat_template prompt_template prompt_style input_template apply_chat_template",
    "data.phase_split": "data_split split_ratio train_phase_split",
    "data.validation": "val_size val_set_size eval_ratio test_size validation_split val_split",
    "data.sources.0.limit": "max_samples num_samples max_train_samples",
    "sft.loss_on": "train_on_inputs train_on_prompt mask_prompt assistant_only_loss",
    "reward.loss.centering": "center_rewards_coefficient reward_centering center_rewards",
    "reward.loss.name": "loss_type loss_fn",
    "eval.every": "eval_steps eval_interval evals_per_epoch eval_strategy evaluation_strategy",
    "logging.every": "logging_steps log_every log_interval log_every_n_steps print_interval",
    "checkpoint.every": "save_steps save_every save_interval checkpointing_steps checkpoint_every",
    "checkpoint.best_by": "metric_for_best_model load_best_model_at_end",
    "checkpoint.patience": "early_stopping_patience early_stopping",
    "checkpoint.keep": "save_total_limit keep_last_n_checkpoints keep_last max_checkpoints",
    "chat.max_new_tokens": "max_gen_len max_answer_seq_len max_new_token num_predict",
    "chat.temperature": "temp sampling_temperature",
    "deepspeed.zero_stage": "zero zero_optimization",
    "deepspeed.config": "deepspeed_config ds_config deepspeed_config_file",
    "deepspeed.offload": "offload_optimizer offload_param cpu_offload zero_offload optimizer_offload",
    "deepspeed.nvme": "nvme_path nvme_offload",
    "output_dir": "output out_dir save_path output_path save_dir output_directory out",
    "seed": "random_seed data_seed rng_seed",
}
_BY_NAME = {name: ours for ours, names in _FOREIGN.items() for name in names.split()}

_ADVICE = {
    "accumulation is derived from batch_size and micro_batch_tokens; leave it out": (
        "gradient_accumulation_steps grad_accum gradient_accumulation accumulate_grad_batches accumulation_steps"
    ),
    "batch_size counts all devices together, micro_batch_tokens says what one device holds at a time": (
        "per_device_train_batch_size per_device_eval_batch_size train_micro_batch_size_per_gpu "
        "micro_batch_size micro_train_batch_size"
    ),
    "write schedule.warmup_ratio, the share of all steps (0.03)": (
        "warmup_steps lr_warmup_steps num_warmup_steps warmup"
    ),
    "rows are packed wherever the model can; leave it out": "packing sample_packing packed pack",
    "it belongs into a phase: sft.lora or reward.lora": "lora adapter peft finetuning_type",
    "the phases are commands, rlhf sft and rlhf reward; DeepSpeed's is deepspeed.zero_stage": "stage",
    "the optimizer is AdamW: see learning_rate, betas and weight_decay of sft and reward": "optimizer optim",
    "quantised training is not supported; leave it out": "load_in_4bit load_in_8bit quantization_bit",
}
_ADVICE_BY_NAME = {name: advice for advice, names in _ADVICE.items() for name in names.split()}


def unknown_key(path: KeyPath) -> str:
    """Describe an unknown key and the key that was probably meant.

    Args:
        path: Path of the unknown key.

    Returns:
        "unknown key; did you mean sft.learning_rate?": the key for another tool's name, a similar key of the section,
        or the same key in another section; otherwise the keys of the section.
    """
    key, above = str(path[-1]).lower().replace("-", "_"), path[:-1]
    siblings = _keys_at(above)
    if key in _ADVICE_BY_NAME and key not in siblings:
        return f"unknown key; {_ADVICE_BY_NAME[key]}"
    if key in _BY_NAME:
        return _did_you_mean([_place(_BY_NAME[key], above)])
    if key in siblings:  # only a hyphen or a capital letter is wrong
        return _did_you_mean([_join(above, key)])
    # a key of two letters resembles too many others
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.65) if len(key) > 2 else []
    if close:
        return _did_you_mean([_join(above, close[0])])
    elsewhere = _elsewhere(key)
    if elsewhere:
        return _did_you_mean(elsewhere)
    if not siblings:
        return "unknown key"
    section = _join(above) or "a recipe"
    return f"unknown key; the keys of {section} are {', '.join(siblings)}"


def section_type(path: KeyPath) -> type[BaseModel] | None:
    """Return the class of the section at a path; indices of lists are skipped.

    Args:
        path: Keys and indices from the top of the recipe.

    Returns:
        The class; ``None`` if the schema has no section there.
    """
    section: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        inner = next(_sections(field.annotation), None) if field else None
        if inner is None:
            return None
        section = inner
    return section


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the sections in an annotation such as ``list[SourceSection]`` or ``LoraSection | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _sections(inner)


def _keys_at(path: KeyPath) -> list[str]:
    section = section_type(path)
    return list(section.model_fields) if section else []


def _place(ours: str, above: KeyPath) -> str:
    """Replace ``*`` by the phase, and the index of a list by that of the unknown key."""
    if ours.startswith("*."):
        if above and above[0] in PHASES:
            return f"{above[0]}.{ours[2:]}"
        return f"sft.{ours[2:]} or reward.{ours[2:]}"
    if above[:2] == ("data", "sources") and len(above) == 3:
        return ours.replace("sources.0.", f"sources.{above[2]}.")
    return ours


def _elsewhere(key: str) -> list[str]:
    """Find the same or a similar key in other sections."""
    places = list(_all_keys(Recipe, ""))
    names = sorted({name for name, _ in places})
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    found = [place for name, place in places if close and name == close[0]]
    return found if len(found) <= 4 else []


def _all_keys(section: type[BaseModel], above: str) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        yield name, above + name
        for inner in _sections(field.annotation):
            index = "0." if typing.get_origin(field.annotation) is list else ""
            yield from _all_keys(inner, f"{above}{name}.{index}")


def _did_you_mean(places: list[str]) -> str:
    return f"unknown key; did you mean {' or '.join(places)}?"


def _join(above: KeyPath, *more: str) -> str:
    return ".".join(str(part) for part in (*above, *more))
