"""The manifest of a store: its inputs, all counts, and the checksums of its files and of itself.

A store is intact if all of it is as it was written: a changed token, count or reason is noticed before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhfcli.errors import DataError
from rlhfcli.files.checksums import file_hash, text_hash
from rlhfcli.files.run_layout import DATA_MANIFEST as MANIFEST

REMAKE = "rlhf prepare-data --overwrite makes it anew."
_intact: dict[Path, list[tuple[int, int]]] = {}  # folder → size and time of its files when they were last hashed


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a store whose other files are complete.

    Args:
        folder: The folder of the store.
        content: The inputs and the counts of the store.
    """
    files = {file.name: {"size": file.stat().st_size, "blake2b": checksum(file)} for file in sorted(folder.iterdir())}
    sealed = {**content, "files": files}
    text = json.dumps({**sealed, "sum": _seal(sealed)}, indent=1, ensure_ascii=False)
    # Half a character, such as a file name that is not UTF-8 brings along, becomes the escape that JSON has for it.
    (folder / MANIFEST).write_text(text, encoding="utf-8", errors="backslashreplace")


def read_manifest(folder: Path, *, sealed: bool = True) -> dict[str, Any]:
    """Read the manifest of a store.

    Args:
        folder: The folder of the store.
        sealed: Whether a manifest of an older version, which has no checksums, is an error.

    Raises:
        FileNotFoundError: There is no manifest.
        DataError: The manifest is not as it was written.
    """
    where = str(folder / MANIFEST)
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{MANIFEST} cannot be read", where=where, hint=REMAKE)
    if "sum" not in content and "fingerprint" in content:
        if not sealed:
            return content
        raise DataError(f"{MANIFEST} was written by an older version", where=where, hint=REMAKE)
    if content.pop("sum", None) != (seal := _seal(content)):
        raise DataError(f"{MANIFEST} is not as it was written", where=where, hint=REMAKE)
    return {**content, "sum": seal}


def damage(folder: Path) -> str | None:
    """Check that a store is intact; files that this process has hashed before are not hashed again.

    Args:
        folder: The folder of the store.

    Returns:
        The damage, with the name of the file; ``None`` if there is none.
    """
    try:
        files = read_manifest(folder)["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except DataError as error:
        return error.what
    seen = []
    for name, entry in files.items():
        try:
            found = (folder / name).stat()
        except OSError as error:
            return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name} cannot be read"
        if found.st_size != entry["size"]:
            return f"{name} has {found.st_size:,} bytes instead of {entry['size']:,}"
        seen.append((found.st_size, found.st_mtime_ns))
    if _intact.get(folder) != seen:
        for name, entry in files.items():
            if checksum(folder / name) != entry["blake2b"]:
                return f"{name} is not as it was written"
        _intact[folder] = seen
    return None


def checksum(file: Path) -> str:
    """Return a hash of a file's content; empty if it cannot be read.

    Args:
        file: The file.
    """
    try:
        return file_hash(file)
    except OSError:
        return ""


def _seal(content: Mapping[str, Any]) -> str:
    """Return a hash of a manifest's entries that does not depend on their order or layout."""
    as_read = json.loads(json.dumps(content))  # keys are texts there
    return text_hash(json.dumps(as_read, sort_keys=True))
