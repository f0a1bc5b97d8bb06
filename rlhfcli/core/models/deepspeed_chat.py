"""Writing and reading reward models in DeepSpeed-Chat's own format, the only one that its third phase (PPO) reads.

Its reader determines how we write: it builds the body from ``config.json``, resizes the embedding to
``8 * ceil(len(tokenizer) / 8)`` rows *before* it loads the weights, and then silently leaves every tensor that does not
fit at its random initial values.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.backbone import backbone_of
from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files.deepspeed_chat_format import BODY, HEAD, WEIGHTS, read_weights
from rlhfcli.core.model_files.saved_folder import finish
from rlhfcli.core.models.loading import load_config
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.core.models.tokenizers import deepspeed_chat_tokenizer
from rlhfcli.errors import ModelError

_ROW_MULTIPLE = 8  # of the rows of its embeddings
_BUFFERS = (".attention.bias", ".attn.bias", "masked_bias", "rotary_emb.inv_freq")  # constants in files of older models


def save(model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Write a reward model as DeepSpeed-Chat's third phase reads it.

    Args:
        model: The reward model; its embedding gets the number of rows that the reader expects.
        tokenizer: The tokenizer to save with it.
        folder: An existing folder.
        card: Text of ``README.md``.
    """
    rows = _ROW_MULTIPLE * math.ceil(len(tokenizer) / _ROW_MULTIPLE)
    model.model.resize_token_embeddings(rows, mean_resizing=False)
    body = backbone_of(model.model)
    tensors = {f"{BODY}{name}": tensor.detach().cpu() for name, tensor in body.state_dict().items()}
    tensors[HEAD] = model.score.weight.detach().cpu()
    config = model.config.to_diff_dict() | {"architectures": [type(body).__name__]}
    config.pop("_name_or_path", None)  # the reader would look for the tokenizer there
    torch.save(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    finish(folder, card)


def load(folder: Path) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load a reward model that DeepSpeed-Chat, or ``save``, has written.

    Args:
        folder: Has ``config.json``, ``pytorch_model.bin``, and a tokenizer or the name of one in the config.

    Returns:
        The reward model, float32, in evaluation mode, and its tokenizer with the chat template of its training.

    Raises:
        ModelError: Something is missing or damaged, or the weights do not fit the config.
    """
    config = load_config(str(folder))
    tensors = read_weights(folder)
    if HEAD not in tensors:
        raise ModelError("not a reward model of DeepSpeed-Chat: it has no v_head.weight", where=str(folder / WEIGHTS))
    tokenizer = deepspeed_chat_tokenizer(folder)
    model = _build(config, folder)
    prefix = f"{model.base_model_prefix}."
    weights = {name.replace(BODY, prefix, 1): tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    weights["score.weight"] = weights.pop(HEAD)
    _fill(model, weights, str(folder / WEIGHTS))
    fit_embeddings(model, tokenizer)
    model.config.problem_type = "regression"
    model.config.id2label, model.config.label2id = {0: "reward"}, {"reward": 0}
    model.config.rlhf = getattr(model.config, "rlhf", None) or {"pooling": "last", "reads": "template"}
    return RewardModel(model.to(device()).eval()).eval(), tokenizer


def _build(config: Any, folder: Path) -> PreTrainedModel:
    """Build the architecture that ``config.json`` describes, with a head and random weights."""
    config.num_labels = 1
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except Exception as error:  # with arbitrary configs transformers raises arbitrary exceptions
        raise ModelError(f"no reward model can be built from config.json: {error}", where=str(folder)) from error
    return model


def _fill(model: PreTrainedModel, weights: dict[str, Tensor], where: str) -> None:
    """Copy the weights into a model; there must be exactly one tensor per parameter, of its shape, and finite."""
    embedding = model.get_input_embeddings().weight
    key = next(name for name, parameter in model.named_parameters() if parameter is embedding)
    if key in weights and weights[key].dim() == 2:  # the file has a few rows more than the config says
        model.resize_token_embeddings(len(weights[key]), mean_resizing=False)
    parameters = dict(model.named_parameters())
    missing, unknown = sorted(parameters.keys() - weights.keys()), sorted(weights.keys() - parameters.keys())
    if missing or unknown:
        raise ModelError(
            f"the weights do not fit config.json: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, config.json says {tuple(parameter.shape)}"
                raise ModelError(f"{name} has shape {shapes}", where=where)
            if not weights[name].isfinite().all():
                raise ModelError(f"{name} contains NaN or infinite values", where=where)
            parameter.copy_(weights[name])
