"""What every saved folder ends with: its card, what older readers look for, file modes, and its sums."""

from __future__ import annotations

from pathlib import Path

from rlhfcli.core.model_files.older_readers import say_twice
from rlhfcli.files import checksums
from rlhfcli.files.run_layout import SUMS


def finish(folder: Path, card: str | None) -> None:
    """What every saved folder ends with: its card, file modes as the user's umask has them, and its sums.

    Args:
        folder: All other files are in it.
        card: Text of ``README.md``; ``None`` for a folder without one.
    """
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    say_twice(folder)
    checksums.write(folder)
    mode = (folder / SUMS).stat().st_mode & 0o777
    for file in folder.iterdir():
        if file.is_file():  # safetensors lets nobody else read what it writes
            file.chmod(mode)
