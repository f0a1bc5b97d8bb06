"""Checking that other programs compute our numbers from a folder: transformers, its pipeline, PEFT, DeepSpeed-Chat.

The scores of a reward model, or the logits of a language model at the last token, are compared on the same examples, in
float32. The other side is computed without any code of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    pipeline,
)

from rlhfcli.core.families.config_checks import pad_of
from rlhfcli.core.hardware import device
from rlhfcli.core.model_files import deepspeed_chat_format
from rlhfcli.core.model_files.load_errors import silenced
from rlhfcli.core.publish.reference_outputs import ReferenceOutputs, longest_of

TOLERANCE = 1e-4  # relative to the largest score or logit
_BATCH = 8
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # explicit, else transformers asks on the terminal
_PLAIN = _NO_CODE | {"dtype": torch.float32}
PEFT = "PEFT: base model + adapter"
MESSAGES = "messages, by apply_chat_template"


@dataclass(frozen=True)
class ClientResult:
    """The result of one program, or of one way of asking it.

    Args:
        client: The program, for the user.
        difference: The largest difference from our outputs, relative to the largest of them where that is above one.
            ``None`` if it could not be tried, NaN if it failed.
        note: A remark for the user.
    """

    client: str
    difference: float | None
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against the folder."""
        return self.difference is None or self.difference <= TOLERANCE


@dataclass(frozen=True)
class ConformanceReport:
    """The results of all programs.

    Args:
        results: One per program and way of asking it.
        about: A description of the outputs that were compared.
    """

    results: tuple[ClientResult, ...]
    about: str

    @property
    def compared(self) -> bool:
        """Whether at least one program could be tried."""
        return any(result.difference is not None for result in self.results)

    @property
    def agrees(self) -> bool:
        """Whether at least one program was tried, and all compute the same numbers."""
        return self.compared and all(result.agrees for result in self.results)


def in_transformers(folder: Path, ours: ReferenceOutputs) -> Iterator[ClientResult]:
    """Load a folder with plain transformers, and compare.

    Args:
        folder: The folder of a whole model.
        ours: The examples, and our outputs for them.

    Yields:
        One result per way of asking the model.
    """
    with silenced():
        try:
            model = _load(folder, ours)
        except Exception as error:  # other programs may raise arbitrary exceptions
            yield _failure("transformers", error)
            return
        yield _compare("transformers, one at a time", lambda: _ask_padded(model, ours, "right", 1), ours.values)
        if getattr(model.config.get_text_config(), "pad_token_id", None) is None:
            yield ClientResult(f"transformers, {_BATCH} at a time", None, "the model has no pad token")
        else:
            right = f"transformers, {_BATCH} at a time, padded on the right"
            yield _compare(right, lambda: _ask_padded(model, ours, "right", _BATCH), ours.values)
            yield _compare_padded_left(model, ours)
        if ours.are_scores:
            yield _compare("text-classification pipeline", lambda: _ask_pipeline(model, folder, ours), ours.text_scores)
        if ours.dialogues:
            yield _compare(MESSAGES, lambda: _ask_messages(model, folder, ours), ours.dialogue_values)


def in_peft(folder: Path, base: str, ours: ReferenceOutputs) -> ClientResult:
    """Load an adapter with PEFT, and compare.

    Args:
        folder: The folder of the adapter.
        base: Hub name or folder of its base model.
        ours: The examples, and our outputs for them.

    Returns:
        One result; without PEFT one that says so.
    """
    if find_spec("peft") is None:
        return ClientResult(PEFT, None, "PEFT is not installed: pip install peft")

    def values() -> Tensor:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(_load(base, ours), str(folder)).eval()
        found = _ask_padded(adapted, ours, "right", 1)  # the base may not know our pad token
        own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        return torch.cat([found, _ask_messages(adapted, folder if own else base, ours)]) if ours.dialogues else found

    with silenced():
        return _compare(PEFT, values, ours.all_values)


def in_deepspeed_chat(folder: Path, ours: ReferenceOutputs) -> ClientResult:
    """Load a reward model as DeepSpeed-Chat's third phase does, and compare.

    Args:
        folder: A folder in DeepSpeed-Chat's format.
        ours: The examples, and our outputs for them.

    Returns:
        One result.
    """

    def values() -> Tensor:
        body = AutoModel.from_config(AutoConfig.from_pretrained(folder, **_NO_CODE), dtype=torch.float32).eval()
        tokens = len(AutoTokenizer.from_pretrained(folder, **_NO_CODE))
        body.resize_token_embeddings(8 * -(-tokens // 8), mean_resizing=False)
        weights = torch.load(folder / deepspeed_chat_format.WEIGHTS, map_location="cpu", weights_only=True)
        head = weights.pop("v_head.weight")
        body.load_state_dict({name.removeprefix("rwtransformer."): tensor for name, tensor in weights.items()})
        sequences = [*ours.sequences, *_message_ids(folder, ours)]
        states = [body(torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
        found: Tensor = torch.stack(states) @ head[0]
        return found

    with silenced():
        return _compare("DeepSpeed-Chat: rwtransformer + v_head", values, ours.all_values)


def _load(folder: Path | str, ours: ReferenceOutputs) -> PreTrainedModel:
    if ours.are_scores:  # the same call as TRL's
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **_PLAIN)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **_PLAIN)
    found: PreTrainedModel = model.to(device()).eval()
    return found


def _compare_padded_left(model: PreTrainedModel, ours: ReferenceOutputs) -> ClientResult:
    client = f"transformers, {_BATCH} at a time, padded on the left"
    without = _compare(client, lambda: _ask_padded(model, ours, "left", _BATCH), ours.values)
    if without.agrees:
        return without
    with_positions = _compare(client, lambda: _ask_padded(model, ours, "left", _BATCH, positions=True), ours.values)
    if not with_positions.agrees:
        return without
    note = f"only with position_ids; without them {without.difference:.1e}: pad this family on the right"
    return ClientResult(client, with_positions.difference, note)


def _ask_pipeline(model: PreTrainedModel, folder: Path, ours: ReferenceOutputs) -> Tensor:
    classify: Any = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder, **_NO_CODE)
    )
    size = 1 if getattr(model.config.get_text_config(), "pad_token_id", None) is None else _BATCH
    cut = {"truncation": True, "max_length": longest_of(model.config)}
    found = classify(ours.texts, function_to_apply="none", batch_size=size, **cut)
    return torch.tensor([result["score"] for result in found])


@torch.no_grad()
def _ask_messages(model: Any, folder: Path | str, ours: ReferenceOutputs) -> Tensor:
    """Return the scores that a user gets from the code of the model card."""
    ids = (torch.tensor([each], device=model.device) for each in _message_ids(folder, ours))
    return torch.stack([model(each).logits[0, 0].float().cpu() for each in ids])


def _message_ids(folder: Path | str, ours: ReferenceOutputs) -> list[list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **_NO_CODE)
    return [tokenizer.apply_chat_template(each, return_dict=True)["input_ids"] for each in ours.dialogues]


@torch.no_grad()
def _ask_padded(model: Any, ours: ReferenceOutputs, side: str, size: int, positions: bool = False) -> Tensor:
    """Return the outputs of a model for plain padded batches."""
    sequences, pad, found = ours.sequences, pad_of(model.config), []
    for begin in range(0, len(sequences), size):
        rows = sequences[begin : begin + size]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), pad if size > 1 else 0)
        mask = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[n, place], mask[n, place] = torch.tensor(list(row)), 1
        extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(model.device)} if positions else {}
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **extra).logits
        logits = logits.float().cpu()
        if logits.dim() == 3:
            last = mask.sum(1) - 1 if side == "right" else torch.full((len(rows),), longest - 1)
            logits = logits[torch.arange(len(rows)), last]
        found.append(logits)
    whole = torch.cat(found)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _compare(client: str, theirs: Callable[[], Tensor], ours: Tensor) -> ClientResult:
    try:
        with torch.no_grad():
            found = theirs()
        width = min(ours.shape[-1], found.shape[-1])  # a base model may know fewer tokens: those added for padding
        difference = (found[..., :width] - ours[..., :width]).abs().max()
        return ClientResult(client, float(difference / ours.abs().max().clamp(min=1.0)))
    except Exception as error:  # other programs may raise arbitrary exceptions
        return _failure(client, error)


def _failure(client: str, error: Exception) -> ClientResult:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ClientResult(client, float("nan"), f"failed: {first}")
