"""Finding the head of any reward model, and the output of it that is the reward.

transformers' ``…ForSequenceClassification`` calls it ``score``, OpenRLHF may call it ``value_head``, TRL's and
LLaMA-Factory's value models ``v_head.summary``; a classifier has one row per label. The head is recognised by the names
and shapes of a folder's tensors, whatever its config calls the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.model_files.model_folder import TensorInFile, read_tensor, tensors_of
from rlhfcli.errors import ModelError

PLAIN = "score.weight"  # its name in every decoder family of transformers
_HEAD_NAMES = re.compile(r"score|classifi|head|reward|value|regress", re.IGNORECASE)
_LANGUAGE_HEADS = re.compile(r"lm_head|embed_out|mtp", re.IGNORECASE)
_MAX_OUTPUTS = 1000  # of a reward head; a vocabulary is larger
_MAX_TENSORS = 6  # of a module that may be a head; a body has more


@dataclass(frozen=True)
class Head:
    """A linear head among the tensors of a folder.

    Args:
        name: The name of its weight.
        weight: The place of its weight.
        bias: The place of its bias, if it has one.
        labels: The names of its outputs.
    """

    name: str
    weight: TensorInFile
    bias: TensorInFile | None
    labels: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether transformers loads the head unchanged: one output, called ``score``, without bias."""
        return self.name == PLAIN and len(self.labels) == 1 and self.bias is None


@dataclass(frozen=True)
class Row:
    """The one output of a head that is the reward.

    Args:
        weight: ``(1, hidden)``, float32.
        about: A description for the user: which output of which head, and what was left out.
    """

    weight: Tensor
    about: str


def find_head(folder: str, config: Any) -> Head | None:
    """Find the head of a reward model.

    Args:
        folder: Hub name or folder of a whole model.
        config: The transformers config of the model.

    Returns:
        The head; ``None`` for a language model.

    Raises:
        ModelError: The head is not a single linear layer.
    """
    tensors = tensors_of(folder)
    candidates = _candidates(tensors, getattr(config.get_text_config(), "vocab_size", None))
    if not candidates:
        return None
    names = [name for module in candidates.values() for name in module]
    matrices = [name for name in names if len(tensors[name].shape) == 2]
    if PLAIN in matrices and len(candidates["score"]) == 1:
        names = matrices = [PLAIN]
    if len(matrices) != 1:
        raise ModelError(
            f"the head that gives the scores is not one linear layer: {', '.join(names[:4])}",
            where=folder,
            hint="Only reward models with one linear layer on a causal language model are supported.",
        )
    name = matrices[0]
    outputs = tensors[name].shape[0]
    return Head(name, tensors[name], tensors.get(name.removesuffix("weight") + "bias"), _labels(config, outputs))


def _candidates(tensors: Mapping[str, TensorInFile], vocabulary: int | None) -> dict[str, list[str]]:
    """Return the names of the tensors of each small module beside the body with the name and shapes of a head."""
    modules: dict[str, list[str]] = {}
    for name in tensors:
        modules.setdefault(name.partition(".")[0], []).append(name)
    kept: dict[str, list[str]] = {}
    for module, names in modules.items():
        matrices = [tensors[name].shape for name in names if len(tensors[name].shape) == 2]
        fits = matrices and all(shape[0] <= _MAX_OUTPUTS and shape[0] != vocabulary for shape in matrices)
        if len(names) <= _MAX_TENSORS and _HEAD_NAMES.search(module) and not _LANGUAGE_HEADS.search(module) and fits:
            kept[module] = names
    return kept


def _labels(config: Any, outputs: int) -> tuple[str, ...]:
    names = getattr(config, "id2label", None)
    if outputs > 1 and isinstance(names, Mapping) and len(names) == outputs:
        return tuple(str(names[key]) for key in sorted(names))
    return tuple(f"LABEL_{number}" for number in range(outputs))


def choose_row(head: Head, label: str | int | None, problem_type: str | None, where: str) -> Row:
    """Read the weights of the output that is the reward.

    Args:
        head: The head of the model.
        label: The name of the output or its number, from 0; not needed where there is only one.
        problem_type: Value of the config. With two mutually exclusive classes the reward is the difference of both
            outputs, which is the log-odds.
        where: The folder, for errors.

    Returns:
        The weights of that output, without bias.

    Raises:
        ModelError: There are several outputs and none was chosen, or none has that name.
    """
    number = _choose_output(head.labels, label, where)
    weight = read_tensor(head.weight, head.name).float()
    count = len(head.labels)
    about = f"the head of {where} ({head.name})"
    if count > 1:
        about = f"output {number} ({head.labels[number]}) of the {count} of {where} ({head.name})"
    row = weight[number : number + 1]
    if count == 2 and problem_type == "single_label_classification":
        row = row - weight[1 - number : 2 - number]
        about += f" less output {1 - number}: the log-odds"
    if head.bias is not None:
        about += ", without its bias: all scores move by the same amount"
    return Row(row.clone(), about)


def _choose_output(labels: Sequence[str], label: str | int | None, where: str) -> int:
    names = list(labels)
    if label is None and len(names) == 1:
        return 0
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:8])) + (" …" if len(names) > 8 else "")
    if label is None:
        raise ModelError(
            f"this model has {len(names)} outputs, and one of them must be the reward: {shown}",
            where=where,
            hint=f"Choose one: --set model.label={names[-1]} (or its number) in training, --label in chat and export.",
        )
    if isinstance(label, str) and label in names:
        return names.index(label)
    if str(label).isdecimal() and int(label) < len(names):
        return int(label)
    raise ModelError(f"the model has no output {label!r}: it has {shown}", where=where, hint="Give a name or a number.")


def set_head(model: Any, row: Row) -> None:
    """Give a ``…ForSequenceClassification`` a head with one output.

    Args:
        model: The model; changed in place.
        row: The weights of the head.

    Raises:
        ModelError: The head has another number of inputs than the old one.
    """
    old = model.score
    if row.weight.shape[1] != old.in_features:
        raise ModelError(
            f"the head has {row.weight.shape[1]} inputs, the body of the model {old.in_features}", hint=row.about
        )
    model.score = torch.nn.Linear(old.in_features, 1, bias=False, device=old.weight.device)
    with torch.no_grad():
        model.score.weight.copy_(row.weight)
    model.num_labels = model.config.num_labels = 1
