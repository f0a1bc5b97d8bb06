"""Reward models in DeepSpeed-Chat's own format, which only its third phase (PPO) reads; in both directions.

Its folder has the ``config.json`` of the language model, and ``pytorch_model.bin`` with the body under
``rwtransformer.`` and the head as ``v_head.weight``. How it reads them decides how they are written: the body is built
from the config and its embedding is given ``8 * ceil(len(tokenizer) / 8)`` rows *before* the weights are read, and a
tensor that does not fit then is left at random without a word.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.embeddings import fit_embeddings
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files.model_folder import read_pickle
from rlhfcli.core.model_files.saved_folder import finish
from rlhfcli.core.models.loading import load_config, load_tokenizer
from rlhfcli.core.models.reward_model import RewardModel
from rlhfcli.data.templates.template import HUMAN_ASSISTANT, HUMAN_ASSISTANT_WITH_BOS, writes_bos
from rlhfcli.errors import ModelError

WEIGHTS = "pytorch_model.bin"
HEAD = "v_head.weight"
_BODY = "rwtransformer."
_ROWS = 8  # its embeddings have a multiple of so many
_BUFFERS = (".attention.bias", ".attn.bias", "masked_bias", "rotary_emb.inv_freq")  # constants, saved once upon a time


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a reward model in this format; reads the names of its tensors only."""
    if not (folder / WEIGHTS).is_file() or not (folder / "config.json").is_file():
        return False
    return not any(folder.glob("*.safetensors")) and HEAD in _read(folder)


def save(model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Write a reward model into a folder that is there, as DeepSpeed-Chat's third phase reads it.

    Args:
        model: Its embedding gets the number of rows that is read there.
        tokenizer: Saved with it.
        folder: Where to.
        card: Text of ``README.md``.
    """
    model.model.resize_token_embeddings(_ROWS * math.ceil(len(tokenizer) / _ROWS), mean_resizing=False)
    body = _body(model.model)
    tensors = {f"{_BODY}{name}": tensor.detach().cpu() for name, tensor in body.state_dict().items()}
    tensors[HEAD] = model.score.weight.detach().cpu()
    config = model.config.to_diff_dict() | {"architectures": [type(body).__name__]}
    config.pop("_name_or_path", None)  # there the tokenizer would be looked for
    torch.save(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    finish(folder, card)


def load(folder: Path) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Read a reward model that DeepSpeed-Chat, or ``save``, has written.

    Args:
        folder: With ``config.json``, ``pytorch_model.bin`` and a tokenizer, or else the name of one in the config.

    Returns:
        The reward model, float32, in evaluation mode, and its tokenizer with the chat template of its training.

    Raises:
        ModelError: Something is missing or damaged, or the weights do not fit the config.
    """
    config = load_config(str(folder))
    tensors = _read(folder)
    if HEAD not in tensors:
        raise ModelError("not a reward model of DeepSpeed-Chat: it has no v_head.weight", where=str(folder / WEIGHTS))
    tokenizer = tokenizer_of(folder)
    model = _built(config, folder)
    prefix = f"{model.base_model_prefix}."
    found = {name.replace(_BODY, prefix, 1): tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    found["score.weight"] = found.pop(HEAD)
    _fill(model, found, str(folder / WEIGHTS))
    fit_embeddings(model, tokenizer)
    model.config.problem_type = "regression"
    model.config.id2label, model.config.label2id = {0: "reward"}, {"reward": 0}
    model.config.rlhf = getattr(model.config, "rlhf", None) or {"pooling": "last", "reads": "template"}
    return RewardModel(model.to(device()).eval()).eval(), tokenizer


def _built(config: Any, folder: Path) -> PreTrainedModel:
    """The architecture that ``config.json`` describes, with a head."""
    config.num_labels = 1
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except Exception as error:  # a config with anything in it makes transformers raise anything
        raise ModelError(f"no reward model can be built from config.json: {error}", where=str(folder)) from error
    return model


def _fill(model: PreTrainedModel, tensors: dict[str, Tensor], where: str) -> None:
    """Put every tensor in its place; all places must be filled."""
    words = model.get_input_embeddings().weight
    key = next(name for name, parameter in model.named_parameters() if parameter is words)
    if key in tensors and tensors[key].dim() == 2:  # they give the embedding a few rows more than the config says
        model.resize_token_embeddings(len(tensors[key]), mean_resizing=False)
    places = dict(model.named_parameters())
    missing, unknown = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
    if missing or unknown:
        raise ModelError(
            f"the weights do not fit config.json: {len(missing)} tensors missing, {len(unknown)} unknown",
            where=where,
            hint=f"First of them: {(missing + unknown)[0]}",
        )
    with torch.no_grad():
        for name, place in places.items():
            if place.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, config.json says {tuple(place.shape)}"
                raise ModelError(f"{name} has shape {shapes}", where=where)
            if not tensors[name].isfinite().all():
                raise ModelError(f"{name} holds what is no number", where=where)
            place.copy_(tensors[name])


def _read(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"the folder has no {WEIGHTS}", where=str(folder))
    return read_pickle(folder / WEIGHTS)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of such a folder: its own where it is whole, else where the config says that it came from.

    Args:
        folder: Of a reward model in this format.

    Returns:
        With a chat template; if it came without one, that of the texts that DeepSpeed-Chat trains on.

    Raises:
        ModelError: There is none.
    """
    source = str(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        # DeepSpeed-Chat saves the words of a tokenizer without saying which of them are special
        source = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path") or ""
        if not source:
            hint = "Copy tokenizer.json and tokenizer_config.json of its base model into the folder."
            raise ModelError("the folder has no complete tokenizer", where=str(folder), hint=hint)
    tokenizer = load_tokenizer(source)
    if not tokenizer.chat_template:
        # its texts begin with two line breaks and end with the letters of <|endoftext|>, whatever the end token is
        words = HUMAN_ASSISTANT_WITH_BOS if writes_bos(tokenizer) else HUMAN_ASSISTANT
        tokenizer.chat_template = words.replace("not loop.first", "true").replace("eos_token", "'<|endoftext|>'")
    return tokenizer


def _body(model: PreTrainedModel) -> Any:
    return getattr(model, model.base_model_prefix)
