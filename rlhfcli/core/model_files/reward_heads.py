"""The head of a reward model that somebody has trained: where its weights lie, and which of its numbers is the reward.

transformers' ``…ForSequenceClassification`` calls it ``score``, OpenRLHF may call it ``value_head``, TRL's and
LLaMA-Factory's value models ``v_head.summary``; a classifier has a row for each of its labels. The names and the shapes
of a folder's tensors tell, whatever its config calls the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhfcli.core.model_files.model_folder import Found, read_tensor, tensors_of
from rlhfcli.errors import ModelError

PLAIN = "score.weight"  # what transformers calls it in every decoder family
_NAMES = re.compile(r"score|classifi|head|reward|value|regress", re.IGNORECASE)
_LANGUAGE = re.compile(r"lm_head|embed_out|mtp", re.IGNORECASE)
_MOST = 1000  # outputs of a head; a vocabulary is larger
_SMALL = 6  # tensors of a module that may be a head; a body has more


@dataclass(frozen=True)
class Head:
    """A linear head among the tensors of a folder.

    Args:
        name: Of its weight.
        weight: Where it lies.
        bias: Where its bias lies, if it has one.
        labels: What its outputs are called, one each.
    """

    name: str
    weight: Found
    bias: Found | None
    labels: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether transformers loads it as it is: one output, called ``score``, without bias."""
        return self.name == PLAIN and len(self.labels) == 1 and self.bias is None


@dataclass(frozen=True)
class Row:
    """The one output of a head that is the reward.

    Args:
        weight: ``(1, hidden)``, float32.
        about: What it is, for people: which output of which head, and what was left out.
    """

    weight: Tensor
    about: str


def find_head(folder: str, config: Any) -> Head | None:
    """Look for the head of a reward model.

    Args:
        folder: Hub name or folder of a whole model.
        config: Its transformers config.

    Returns:
        The head; ``None`` for a language model.

    Raises:
        ModelError: The head is none that this program can use.
    """
    found = tensors_of(folder)
    candidates = _candidates(found, getattr(config.get_text_config(), "vocab_size", None))
    if not candidates:
        return None
    names = [name for tensors in candidates.values() for name in tensors]
    matrices = [name for name in names if len(found[name].shape) == 2]
    if PLAIN in matrices and len(candidates["score"]) == 1:
        names = matrices = [PLAIN]
    if len(matrices) != 1:
        raise ModelError(
            f"the head that gives the scores is not one linear layer: {', '.join(names[:4])}",
            where=folder,
            hint="A reward model has one linear layer behind a causal language model. Ask its maker's own code.",
        )
    name = matrices[0]
    outputs = found[name].shape[0]
    return Head(name, found[name], found.get(name.removesuffix("weight") + "bias"), _labels(config, outputs))


def _candidates(found: Mapping[str, Found], vocabulary: int | None) -> dict[str, list[str]]:
    """Tensors of the small modules beside the body whose name and shape are those of a head, by module."""
    modules: dict[str, list[str]] = {}
    for name in found:
        modules.setdefault(name.partition(".")[0], []).append(name)
    kept: dict[str, list[str]] = {}
    for module, names in modules.items():
        matrices = [found[name].shape for name in names if len(found[name].shape) == 2]
        fits = matrices and all(shape[0] <= _MOST and shape[0] != vocabulary for shape in matrices)
        if len(names) <= _SMALL and _NAMES.search(module) and not _LANGUAGE.search(module) and fits:
            kept[module] = names
    return kept


def _labels(config: Any, outputs: int) -> tuple[str, ...]:
    names = getattr(config, "id2label", None)
    if outputs > 1 and isinstance(names, Mapping) and len(names) == outputs:
        return tuple(str(names[key]) for key in sorted(names))
    return tuple(f"LABEL_{number}" for number in range(outputs))


def chosen_row(head: Head, label: str | int | None, problem_type: str | None, where: str) -> Row:
    """The weights of the output that is the reward.

    Args:
        head: What was found.
        label: The name of the output or its number, from 0; may be left out where there is only one.
        problem_type: As the config has it. Of two classes that exclude each other the reward is the difference of
            both outputs, the logarithm of the odds.
        where: The folder, for the error.

    Raises:
        ModelError: There are several and none was chosen, or there is none of that name.
    """
    number = _number(head.labels, label, where)
    weight = read_tensor(head.weight, head.name).float()
    count = len(head.labels)
    about = f"the head of {where} ({head.name})"
    if count > 1:
        about = f"output {number} ({head.labels[number]}) of the {count} of {where} ({head.name})"
    row = weight[number : number + 1]
    if count == 2 and problem_type == "single_label_classification":
        row = row - weight[1 - number : 2 - number]
        about += f" less output {1 - number}: the logarithm of the odds"
    if head.bias is not None:
        about += ", without its bias: all scores move by the same amount"
    return Row(row.clone(), about)


def _number(labels: Sequence[str], label: str | int | None, where: str) -> int:
    names = list(labels)
    if label is None and len(names) == 1:
        return 0
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:8])) + (" …" if len(names) > 8 else "")
    if label is None:
        raise ModelError(
            f"this model gives {len(names)} numbers, and one of them has to be the reward: {shown}",
            where=where,
            hint=f"Say which: --set model.label={names[-1]} (or its number) in training, --label in chat and export.",
        )
    if isinstance(label, str) and label in names:
        return names.index(label)
    if str(label).isdecimal() and int(label) < len(names):
        return int(label)
    raise ModelError(f"the model has no output {label!r}: it has {shown}", where=where, hint="Give a name or a number.")


def put(model: Any, row: Row) -> None:
    """Give a ``…ForSequenceClassification`` one output, with these weights.

    Raises:
        ModelError: They belong to a body of another width.
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
