"""Check stores of older versions, whose manifests have no checksums of the files and of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhfcli.data.store.prepared import StoredDialogues, StoredPairs
from rlhfcli.errors import DataError


def damage_of_unsealed(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Check that the files of a store without checksums can be read and have all rows.

    Args:
        folder: The folder of the store.
        manifest: The manifest of the store.

    Returns:
        The damage, with the name of the file; ``None`` if there is none.
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
