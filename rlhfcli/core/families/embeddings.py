"""Give the embedding a row for every id of the tokenizer: missing rows are drawn anew, by seed, and reported."""

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
    """Add rows for ids that the model has none for, and write the pad id into its configs. Rows are never removed.

    Args:
        model: Changed in place.
        tokenizer: The tokenizer; its ids may have gaps, the highest one counts.
        seed: Seed of the new rows; the global generator is left alone.

    Returns:
        A report of the added rows, for people; empty where there are none.
    """
    rows, needed = model.get_input_embeddings().num_embeddings, num_ids(tokenizer)
    if needed > rows:
        with _seeded(seed, model):
            model.resize_token_embeddings(needed, mean_resizing=False)
    set_pad(model.config, tokenizer.pad_token_id)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return _added(tokenizer, rows, needed) if needed > rows else ""


def num_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many rows an embedding needs for every id that a tokenizer can give.

    Args:
        tokenizer: The tokenizer; where its ids have gaps, ``len`` counts too few.
    """
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def check_ids(model: Any, sequences: Sequence[Sequence[int]]) -> None:
    """Refuse ids that a model has no rows for, before it looks them up.

    Args:
        model: A transformers model.
        sequences: Token ids.

    Raises:
        ModelError: There is such an id.
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
    count = "1 new row" if needed - rows == 1 else f"{needed - rows:,} new rows"
    report = f"the model has {rows:,} rows for tokens, the tokenizer's ids need {needed:,}: {count} ({shown})"
    if not missing.keys() <= own.keys():
        report += ". Its vocabulary is larger than the model's: does this tokenizer belong to this model?"
    return report


@contextmanager
def _seeded(seed: int, model: PreTrainedModel) -> Iterator[None]:
    """Draw by a seed within a block; a model on the meta device, or a fake one, draws nothing."""
    weight = model.get_input_embeddings().weight
    if weight.is_meta or isinstance(weight.data, torch._subclasses.FakeTensor):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
