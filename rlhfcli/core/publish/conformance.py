"""Does an exported folder give our numbers elsewhere? Loaded in plain transformers and in PEFT, and compared.

A reward model is compared by its scores, a language model by its logits at the last token; on the same examples, in
float32. Nothing of ours takes part in what it is compared with.
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

TOLERANCE = 1e-4
_BATCH = 8
_NO_CODE: dict[str, Any] = {"trust_remote_code": False}  # else transformers asks on the terminal
_PLAIN = _NO_CODE | {"dtype": torch.float32}
PEFT = "PEFT: base model + adapter"
MESSAGES = "messages, by apply_chat_template"


@dataclass(frozen=True)
class Outcome:
    """What one way of loading gave.

    Args:
        client: Which.
        difference: The largest one from ours, as a share of the largest score or logit where that is above one.
            ``None`` where it could not be tried, NaN where it failed.
        note: What there is to say about it.
    """

    client: str
    difference: float | None
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether this is no reason to distrust the folder."""
        return self.difference is None or self.difference <= TOLERANCE


@dataclass(frozen=True)
class Report:
    """What all ways of loading gave.

    Args:
        outcomes: One per way.
        about: What was compared.
    """

    outcomes: tuple[Outcome, ...]
    about: str

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare with."""
        return any(outcome.difference is not None for outcome in self.outcomes)

    @property
    def holds(self) -> bool:
        """Whether everybody gets the same numbers."""
        return self.compared and all(outcome.agrees for outcome in self.outcomes)


def in_transformers(folder: Path, ours: ReferenceOutputs) -> Iterator[Outcome]:
    """Load a model folder as everybody does, and compare.

    Args:
        folder: The exported one.
        ours: Examples and values.

    Yields:
        One outcome per way of asking it.
    """
    with silenced():
        try:
            model = _loaded(folder, ours)
        except Exception as error:  # another program's, which may raise anything
            yield _failed("transformers", error)
            return
        yield _outcome("transformers, one at a time", lambda: _padded(model, ours, "right", 1), ours.values)
        if getattr(model.config.get_text_config(), "pad_token_id", None) is None:
            yield Outcome(f"transformers, {_BATCH} at a time", None, "the model has no pad token")
        else:
            right = f"transformers, {_BATCH} at a time, padded on the right"
            yield _outcome(right, lambda: _padded(model, ours, "right", _BATCH), ours.values)
            yield _left(model, ours)
        if ours.scores:
            yield _outcome("text-classification pipeline", lambda: _in_pipeline(model, folder, ours), ours.text_scores)
        if ours.dialogues:
            yield _outcome(MESSAGES, lambda: _of_messages(model, folder, ours), ours.of_dialogues)


def in_peft(folder: Path, base: str, ours: ReferenceOutputs) -> Outcome:
    """Put an adapter on its base model with PEFT, and compare.

    Args:
        folder: The adapter.
        base: Hub name or folder of its base model.
        ours: Examples and values.
    """
    if find_spec("peft") is None:
        return Outcome(PEFT, None, "PEFT is not installed: pip install peft")

    def values() -> Tensor:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(_loaded(base, ours), str(folder)).eval()
        found = _padded(adapted, ours, "right", 1)  # the base may not know our pad token
        own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        return torch.cat([found, _of_messages(adapted, folder if own else base, ours)]) if ours.dialogues else found

    with silenced():
        return _outcome(PEFT, values, ours.with_dialogues)


def in_deepspeed_chat(folder: Path, ours: ReferenceOutputs) -> Outcome:
    """Read a folder as DeepSpeed-Chat's third phase does, and compare.

    Args:
        folder: The exported one.
        ours: Examples and values.
    """

    def values() -> Tensor:
        body = AutoModel.from_config(AutoConfig.from_pretrained(folder, **_NO_CODE), dtype=torch.float32).eval()
        body.resize_token_embeddings(
            8 * -(-len(AutoTokenizer.from_pretrained(folder, **_NO_CODE)) // 8), mean_resizing=False
        )
        read = torch.load(folder / deepspeed_chat_format.WEIGHTS, map_location="cpu", weights_only=True)
        head = read.pop("v_head.weight")
        body.load_state_dict({name.removeprefix("rwtransformer."): tensor for name, tensor in read.items()})
        sequences = [*ours.sequences, *_ids_of_messages(folder, ours)]
        states = [body(torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
        found: Tensor = torch.stack(states) @ head[0]
        return found

    with silenced():
        return _outcome("DeepSpeed-Chat: rwtransformer + v_head", values, ours.with_dialogues)


def _loaded(folder: Path | str, ours: ReferenceOutputs) -> PreTrainedModel:
    if ours.scores:  # the very call that TRL makes
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **_PLAIN)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **_PLAIN)
    found: PreTrainedModel = model.to(device()).eval()
    return found


def _left(model: PreTrainedModel, ours: ReferenceOutputs) -> Outcome:
    client = f"transformers, {_BATCH} at a time, padded on the left"
    plain = _outcome(client, lambda: _padded(model, ours, "left", _BATCH), ours.values)
    if plain.agrees:
        return plain
    told = _outcome(client, lambda: _padded(model, ours, "left", _BATCH, positions=True), ours.values)
    if not told.agrees:
        return plain
    note = f"only with position_ids; without them {plain.difference:.1e}: pad this family on the right"
    return Outcome(client, told.difference, note)


def _in_pipeline(model: PreTrainedModel, folder: Path, ours: ReferenceOutputs) -> Tensor:
    classify: Any = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder, **_NO_CODE)
    )
    size = 1 if getattr(model.config.get_text_config(), "pad_token_id", None) is None else _BATCH
    cut = {"truncation": True, "max_length": longest_of(model.config)}
    found = classify(ours.texts, function_to_apply="none", batch_size=size, **cut)
    return torch.tensor([result["score"] for result in found])


@torch.no_grad()
def _of_messages(model: Any, folder: Path | str, ours: ReferenceOutputs) -> Tensor:
    """The scores that a user gets who writes what the model card says."""
    ids = (torch.tensor([each], device=model.device) for each in _ids_of_messages(folder, ours))
    return torch.stack([model(each).logits[0, 0].float().cpu() for each in ids])


def _ids_of_messages(folder: Path | str, ours: ReferenceOutputs) -> list[list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **_NO_CODE)
    return [tokenizer.apply_chat_template(each, return_dict=True)["input_ids"] for each in ours.dialogues]


@torch.no_grad()
def _padded(model: Any, ours: ReferenceOutputs, side: str, size: int, positions: bool = False) -> Tensor:
    """The model's own answer to plain padded batches."""
    sequences, pad, found = ours.sequences, pad_of(model.config), []
    for begin in range(0, len(sequences), size):
        rows = sequences[begin : begin + size]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), pad if size > 1 else 0)
        mask = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[n, place], mask[n, place] = torch.tensor(list(row)), 1
        more = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(model.device)} if positions else {}
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **more).logits
        logits = logits.float().cpu()
        if logits.dim() == 3:
            last = mask.sum(1) - 1 if side == "right" else torch.full((len(rows),), longest - 1)
            logits = logits[torch.arange(len(rows)), last]
        found.append(logits)
    whole = torch.cat(found)
    return whole[:, 0] if whole.shape[1] == 1 else whole


def _outcome(client: str, theirs: Callable[[], Tensor], ours: Tensor) -> Outcome:
    try:
        with torch.no_grad():
            found = theirs()
        width = min(ours.shape[-1], found.shape[-1])  # a base model may know fewer tokens: those added for padding
        difference = (found[..., :width] - ours[..., :width]).abs().max()
        return Outcome(client, float(difference / ours.abs().max().clamp(min=1.0)))
    except Exception as error:  # another program's, which may raise anything
        return _failed(client, error)


def _failed(client: str, error: Exception) -> Outcome:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Outcome(client, float("nan"), f"failed: {first}")
