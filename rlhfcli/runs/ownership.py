"""Which files of a folder this program wrote, and which are the user's: only the former are ever replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from rlhfcli.errors import OutputError
from rlhfcli.files import atomic, folder_lock
from rlhfcli.files.run_layout import ADAPTER, DATA_MANIFEST, RECORD, SUMS, adapter_of, is_run
from rlhfcli.words import shortened

_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}  # made by file managers
_DATA = re.compile(r"manifest\.json|rejected_rows\.jsonl|((sft|reward)_(train|validation)|training_prompts)\.arrow")


def refuse_other_folder(run: Path) -> None:
    """Check that a path is a run folder, an empty folder, or does not exist.

    Args:
        run: The output folder of a recipe.

    Raises:
        OutputError: It is a file, or has files and no ``run.json``.
    """
    if run.exists() and not run.is_dir():
        raise OutputError("the output folder is a file", where=str(run), hint="Choose another output_dir.")
    others = [name for name in _names(run) if name not in folder_lock.FILES and not atomic.is_leftover(name)]
    if others and not is_run(run):
        raise OutputError(
            f"the output folder holds something other than a run: it has files ({shortened(others)}), but no {RECORD}",
            where=str(run),
            hint="Choose another one: --set output_dir=… (--overwrite replaces only what rlhf has made.)",
        )


def refuse_other_model(folder: Path) -> None:
    """Check that a model folder may be replaced.

    Args:
        folder: A folder such as ``sft/final``; need not exist.

    Raises:
        OutputError: It holds files that were not saved with the model.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    _refuse(folder, files_of_others(folder), "a model that rlhf has made")


def files_of_others(folder: Path) -> list[str]:
    """Return the names in a model folder that were not saved with the model, by its checksums.

    Args:
        folder: The model folder.
    """
    if not folder.is_dir():
        return [folder.name]
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return _names(folder)
    ours = {line.partition("  ")[2] for line in lines} | {SUMS, "README.md"}
    inner = {ADAPTER} if adapter_of(folder).is_dir() and not files_of_others(adapter_of(folder)) else set()
    return [name for name in _names(folder) if name not in ours | inner]


def refuse_other_data(folder: Path) -> None:
    """Check that the folder of the prepared data may be replaced.

    Args:
        folder: The data folder of a run; need not exist.

    Raises:
        OutputError: It holds files that are not prepared data.
    """
    if folder.exists() and not folder.is_dir():
        _refuse(folder, [folder.name], "prepared data")
    names = _names(folder)
    foreign = names == [DATA_MANIFEST] and not _is_manifest(folder / DATA_MANIFEST)  # a common name of files
    _refuse(folder, names if foreign else [name for name in names if not _DATA.fullmatch(name)], "prepared data")


def _is_manifest(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "fingerprint" in content


def _refuse(folder: Path, others: Iterable[str], ours: str) -> None:
    if others := list(others):
        raise OutputError(
            f"holds something other than {ours}: {shortened(others)}",
            where=str(folder),
            hint="Nothing was changed. Move it elsewhere, or choose another output_dir.",
        )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name not in _SYSTEM)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", where=str(folder)) from None
