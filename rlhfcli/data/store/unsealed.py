"""Stores of older versions, whose manifests are not sealed: they have no sums of the files and of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhfcli.data.store.prepared import StoredDialogues, StoredPairs
from rlhfcli.errors import DataError


def damage_of_unsealed(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Check a store of an older version, which recorded no sums: that its files can be read and have all rows.

    Args:
        folder: The store.
        manifest: Its manifest.

    Returns:
        What is wrong with which file; ``None`` if nothing is.
    """
    kinds: dict[str, type[StoredDialogues] | type[StoredPairs]] = {"sft": StoredDialogues, "reward": StoredPairs}
    for part, counted in manifest["tokens"].items():
        try:
            rows = len(kinds[part.partition("_")[0]](folder / f"{part}.arrow"))
        except DataError:
            return f"{part}.arrow cannot be read"
        if rows != counted["rows"]:
            return f"{part}.arrow has {rows:,} rows instead of {counted['rows']:,}"
    return None
