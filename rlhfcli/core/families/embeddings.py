"""Rows of the embedding for every id of the tokenizer: what is missing is drawn anew, by seed, and reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.config_checks import set_pad
from rlhfcli.errors import ModelError
from rlhfcli.words import shortened


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> str:
    """Make room for ids that the model has no rows for, and tell the model which id is the pad. Never shrinks.

    Args:
        model: Changed in place.
        tokenizer: Its ids may have holes: what counts is the highest.
        seed: Of the new rows; the global generator is left alone.

    Returns:
        What was added, for people; empty where nothing was.
    """
    rows, needed = model.get_input_embeddings().num_embeddings, ids_of(tokenizer)
    if needed > rows:
        with _seeded(seed, model):
            model.resize_token_embeddings(needed, mean_resizing=False)
    set_pad(model.config, tokenizer.pad_token_id)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return _added(tokenizer, rows, needed) if needed > rows else ""


def ids_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many rows an embedding needs for every id that a tokenizer can give.

    Args:
        tokenizer: Some have holes between their ids, so that ``len`` counts too few.
    """
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def check_ids(model: Any, sequences: Sequence[Sequence[int]]) -> None:
    """Refuse ids that a model has no rows for, before it looks for them.

    Args:
        model: A transformers model.
        sequences: Token ids.

    Raises:
        ModelError: There is one.
    """
    rows = model.get_input_embeddings().num_embeddings
    highest = max((max(ids) for ids in sequences if len(ids)), default=0)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer gives the id {highest:,}, and the model has {rows:,} rows, from 0 to {rows - 1:,}",
            where=str(getattr(model.config, "name_or_path", "")) or None,
            hint="Does this tokenizer belong to this model? Both come in one folder, with tokenizer_config.json.",
        )


def _added(tokenizer: PreTrainedTokenizerBase, rows: int, needed: int) -> str:
    own = tokenizer.get_added_vocab()
    missing = {token: place for token, place in tokenizer.get_vocab().items() if place >= rows}
    names = sorted(missing, key=lambda token: missing[token])
    shown = shortened(list(map(repr, names)))
    number = "1 row" if needed - rows == 1 else f"{needed - rows:,} rows"
    said = f"the model has {rows:,} rows for tokens, the tokenizer's ids need {needed:,}: {number} drawn anew ({shown})"
    if not missing.keys() <= own.keys():
        said += ". Its vocabulary is larger than the model's: does this tokenizer belong to this model?"
    return said


@contextmanager
def _seeded(seed: int, model: PreTrainedModel) -> Iterator[None]:
    """Draw by a seed; of a model without memory nothing is drawn."""
    weight = model.get_input_embeddings().weight
    if weight.is_meta or isinstance(weight.data, torch._subclasses.FakeTensor):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
