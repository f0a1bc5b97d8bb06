"""Data sets of the Hugging Face hub; what the recipe leaves open is taken from the catalogue where it knows them."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from rlhfcli.data.shapes.catalogue import find_entry
from rlhfcli.errors import DataError
from rlhfcli.recipe.schema import SourceSection

# datasets' words before the configurations of a data set, on the hub and in its cache
_CONFIGURATIONS = re.compile(r"(?:available configs|in the cache|not found. Available): (.+)")
_LINES = 4  # of what the hub client says
NAME_ANOTHER = "Name a local file: --set data.sources.{number}.path=my/data.jsonl"


def load(source: SourceSection, number: int) -> tuple[str, Any, str]:
    """Load a data set from the hub, or from its cache.

    Args:
        source: The recipe's entry.
        number: Its place in the recipe, for messages.

    Returns:
        What to call it, its rows (a sequence), and a text that stands for their content.

    Raises:
        DataError: It is not to be had, or has no such split.
    """
    import datasets

    known = find_entry(source.path)
    path, split, options = source.path, source.split or "train", {"name": source.subset}
    if known is not None:
        path, split = known.path, source.split or known.split
        options = options if source.subset else {"name": known.subset, "data_dir": known.folder}
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(path, split=split, **options)
    except Exception as error:  # the hub client raises its own kinds, OSError, ValueError, and what the network raises
        raise _failure(source, split, number, error) from error
    configuration = rows.info.config_name
    named = "" if configuration in (None, "default", source.subset) or known is not None else f"{configuration}, "
    return f"{source.path} ({named}{split})", rows, str(rows._fingerprint)


def _failure(source: SourceSection, split: str, number: int, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where = f"data.sources.{number}: {source.path}"
    if isinstance(error, ValueError) and (found := _CONFIGURATIONS.search(str(error))):
        names = sorted(re.findall(r"[^\s\[\]',]+", found[1]))
        what = f"the data set has the configurations {', '.join(names)}"
        if source.subset is not None:
            what = f"there is no configuration {source.subset!r}: {what}"
        (near, *_) = get_close_matches(source.subset or "", names, 1) or names
        return DataError(what, where=where, hint=f"Choose one: --set data.sources.{number}.subset={near}")
    if isinstance(error, ValueError) and "split" in lines[0].lower():
        return DataError(f"the data set has no split {split!r}", where=where, hint=lines[0])
    return DataError(
        "neither a local file or folder, nor to be had from the Hugging Face hub or its cache",
        where=where,
        hint=f"{NAME_ANOTHER.format(number=number)}\n"
        "Or connect to the network, and check that HF_HUB_OFFLINE is not set.\n"
        f"What the hub client said: {' '.join(map(str.strip, lines[:_LINES]))}",
    )
