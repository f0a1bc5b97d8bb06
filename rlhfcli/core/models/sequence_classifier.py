"""Load a model as transformers' ``…ForSequenceClassification`` with one output: the form of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rlhfcli.core.families.config_checks import check_finite, fix_generation_config
from rlhfcli.core.families.dropout import set_config_dropout, set_module_dropout
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files.load_errors import check_filled, check_shapes, explained
from rlhfcli.core.model_files.reward_heads import PLAIN, choose_row, find_head, set_head
from rlhfcli.core.models.loading import is_reward_model, load_config, resolve
from rlhfcli.errors import ModelError
from rlhfcli.recipe.schema import ModelSection


@dataclass(frozen=True)
class ScoringModel:
    """A model with one output, and a description of its head.

    Args:
        model: A ``…ForSequenceClassification``, float32, in evaluation mode, on this process's device.
        head: Where the head comes from; empty for a language model, whose head transformers has just drawn.
    """

    model: PreTrainedModel
    head: str


def load_for_scoring(section: ModelSection, folder: str) -> ScoringModel:
    """Load a model with one output, and with the head in its folder, whatever the head's weights are called.

    Args:
        section: The recipe's model section.
        folder: Hub name or folder of a language model or reward model.

    Returns:
        The model and a description of its head.

    Raises:
        ModelError: It cannot be loaded, its family has no such class, or it has several outputs and none is chosen.
    """
    config = load_config(folder, trust_remote_code=section.trust_remote_code)
    ours = section.label is None and _is_ours(config)
    head = None if ours else find_head(resolve(folder), config)
    row = None
    if head is not None and (not head.plain or section.label is not None):
        if is_deepspeed_zero3_enabled():
            raise ModelError(
                "at ZeRO stage 3 only reward models of the plain form can be loaded",
                where=folder,
                hint="Write it in that form first: rlhf export FOLDER TO (with --label), then model.name=TO.",
            )
        row = choose_row(head, section.label, getattr(config, "problem_type", None), folder)
    config.num_labels = len(head.labels) if head and head.name == PLAIN else 1
    new_head = (head is None and not is_reward_model(config)) or (head is not None and head.name != PLAIN)
    model = load_classifier(section, folder, config, new_head=new_head)
    if row is not None:
        set_head(model, row)
        set_one_output(model.config)
    about = row.about if row else f"the head of {folder}" if head or is_reward_model(config) else ""
    return ScoringModel(model.to(device()).eval(), about)


def _is_ours(config: Any) -> bool:
    return is_reward_model(config) and bool(getattr(config, "rlhf", None)) and config.num_labels == 1


def load_classifier(section: ModelSection, folder: str, config: Any, *, new_head: bool) -> PreTrainedModel:
    """Load a model as ``…ForSequenceClassification`` with as many outputs as its config says.

    Args:
        section: The recipe's model section.
        folder: Hub name or folder.
        config: The config of the model to be made.
        new_head: Whether the head is new, so that the folder has no weights for it.

    Returns:
        The model, float32.

    Raises:
        ModelError: It cannot be loaded, or its weights do not fill it.
    """
    dropouts = set_config_dropout(config, section.dropout)
    with explained(folder, "model"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            resolve(folder),
            config=config,
            dtype=torch.float32,
            trust_remote_code=section.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_shapes(folder, report)
    check_filled(folder, [name for name in report["missing_keys"] if not (new_head and name.startswith("score."))])
    check_finite(model, folder)
    set_module_dropout(model, dropouts)
    fix_generation_config(model)
    found: PreTrainedModel = model
    return found


def set_one_output(config: Any) -> None:
    """Write into a config that the model has one output, which is a reward and not a class.

    Args:
        config: The config of a ``…ForSequenceClassification``; changed in place.
    """
    config.problem_type = "regression"  # else pipelines and vLLM put a sigmoid on the score
    config.id2label, config.label2id = {0: "reward"}, {"reward": 0}
