"""The last step of saving a model or an adapter: the card, keys for older readers, checksums and file modes."""

from __future__ import annotations

from pathlib import Path

from rlhfcli.core.model_files.transformers4 import add_older_keys
from rlhfcli.files import checksums
from rlhfcli.files.run_layout import SUMS


def finish(folder: Path, card: str | None) -> None:
    """Complete a folder whose other files are written.

    Args:
        folder: The folder of a model or an adapter.
        card: Text of ``README.md``; ``None`` for a folder without one.
    """
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    add_older_keys(folder)
    checksums.write(folder)
    mode = (folder / SUMS).stat().st_mode & 0o777  # as the user's umask sets it
    for file in folder.iterdir():
        if file.is_file():  # safetensors writes files with mode 0600
            file.chmod(mode)
