"""Checkpoints on disk: complete or absent, checked before they are used, and few enough to fit.

    <run>/<phase>/checkpoints/step-00000200/
      state-00001.safetensors …   weights and moments of trained parameters, float32 (see ``engine_state``)
      random.safetensors          the state of each rank's random number generators
      manifest.txt                its own hash, then JSON: step, settings, sums so far; size and hash of every file

A folder is written beside its place and renamed when everything in it has reached the disk, so a kill at any moment
leaves the older checkpoints as they were. Nothing in it can run code when it is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhfcli import words
from rlhfcli.errors import OutputError
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.checksums import file_hash, text_hash
from rlhfcli.files.run_layout import CHECKPOINT_MANIFEST as MANIFEST
from rlhfcli.files.run_layout import UNFINISHED_CHECKPOINTS, checkpoint, list_checkpoints, step_of

_FORMAT = 1  # increased by a version whose checkpoints this one cannot read
_SHARD = 2 * 1024**3  # bytes of a file, which rank 0 holds in memory at once
_RANDOM = "random.safetensors"


class Damaged(Exception):
    """A checkpoint is incomplete or was changed; the text says how."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Args:
        step: Number of optimizer steps made.
        tokens: Number of tokens trained on.
        seconds: Time spent, over all sessions.
        window: Sums since the last line of ``metrics.jsonl``.
        metrics: Number of lines in ``metrics.jsonl``.
        figures: Figures of the last evaluation.
        best: Figures of the best evaluation; empty if the recipe does not ask for it.
    """

    step: int
    tokens: int = 0
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    metrics: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


class Checkpoint:
    """An intact checkpoint on disk.

    Args:
        folder: Its folder.
        verify: Compare every file with its hash; else only with its size.

    Raises:
        Damaged: It is incomplete, or a file was changed.
        OutputError: Another version of rlhf wrote it, in a format that this one cannot read.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder = folder
        self.digest, self.manifest = _checked(folder, verify=verify)
        self.progress = _progress(folder, self.manifest)
        self._where: dict[str, str] = self.manifest["tensors"]

    def read(self, key: str) -> Tensor:
        """Read a tensor.

        Args:
            key: The name under which it was saved.

        Raises:
            Damaged: There is no tensor of this name.
        """
        if key not in self._where:
            raise Damaged(f"it holds no {key}")
        with safe_open(self.folder / self._where[key], "pt") as file:
            tensor: Tensor = file.get_tensor(key)
            return tensor

    def random_state(self, rank: int) -> dict[str, Tensor]:
        """Return the states of a rank's random number generators by device; none for a rank that did not exist.

        Args:
            rank: Number of the rank.
        """
        with safe_open(self.folder / _RANDOM, "pt") as file:
            prefix = f"{rank}:"
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def save(
    parent: Path,
    tensors: Iterator[tuple[str, Tensor]],
    random_states: dict[str, Tensor],
    progress: Progress,
    settings: dict[str, Any],
    size: int,
) -> Path:
    """Write a checkpoint. Only rank 0 calls this.

    Args:
        parent: Folder of the checkpoints.
        tensors: Names and tensors; consumed one by one.
        random_states: States of the random number generators by ``rank:device``.
        progress: Progress of the training.
        settings: The settings that the training depends on; compared on resume.
        size: Bytes that the tensors will need.

    Returns:
        The folder of the checkpoint.

    Raises:
        OutputError: It does not fit, or cannot be written; older checkpoints are untouched.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _check_space(parent, size)
    folder = checkpoint(parent, progress.step)
    with complete_or_absent(folder) as partial:
        where: dict[str, str] = {}
        for number, shard in enumerate(_shards(tensors), 1):
            name = f"state-{number:05}.safetensors"
            save_file(shard, partial / name)
            where |= dict.fromkeys(shard, name)
        save_file(random_states, partial / _RANDOM)
        _write_manifest(partial, {"progress": vars(progress), "settings": settings, "tensors": where})
        sync(partial)
    sync(parent)
    return folder


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest of a folder whose other files are all there, and wait until they are on the disk."""
    files = {file.name: _identity(file) for file in sorted(folder.iterdir())}
    text = json.dumps({"format": _FORMAT, **content, "files": files})
    (folder / MANIFEST).write_text(f"{text_hash(text)}\n{text}", encoding="utf-8")
    mode = (folder / MANIFEST).stat().st_mode & 0o777
    for file in folder.iterdir():
        file.chmod(mode)  # safetensors writes files with mode 0600
        sync(file)


def newest(parent: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Open the newest intact checkpoint.

    Args:
        parent: Folder of the checkpoints.
        warn: Called with a text about each damaged checkpoint, which is skipped.

    Returns:
        The checkpoint; ``None`` if there is none.
    """
    for folder in reversed(list_checkpoints(parent)):
        try:
            return Checkpoint(folder)
        except Damaged as damage:
            warn(f"the checkpoint {folder} is damaged and is skipped: {damage}")
    return None


def prune(parent: Path, keep: int, best: int | None = None) -> None:
    """Remove old checkpoints, and incomplete ones of killed processes.

    Args:
        parent: Folder of the checkpoints.
        keep: Number of the newest checkpoints to keep.
        best: Step of another one to keep.
    """
    for folder in list_checkpoints(parent)[:-keep]:
        if step_of(folder) != best:
            shutil.rmtree(folder, ignore_errors=True)
    for left in parent.glob(UNFINISHED_CHECKPOINTS):
        shutil.rmtree(left, ignore_errors=True)


def remove_all(parent: Path) -> None:
    """Remove the checkpoints of a phase, and their folder unless something else is in it.

    Args:
        parent: Folder of the checkpoints; need not be there.
    """
    for folder in [*list_checkpoints(parent), *parent.glob(UNFINISHED_CHECKPOINTS)]:
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        parent.rmdir()


def _check_space(parent: Path, size: int) -> None:
    free, needed = shutil.disk_usage(parent).free, size * 1.02 + 2**20
    if free < needed:
        older = list_checkpoints(parent)
        hint = "Make room, or put output_dir on another disk; there is no checkpoint yet."
        if older:
            hint = (
                f"{older[-1].name} is intact: make room and continue from it with --resume, or keep fewer: "
                "checkpoint.keep."
            )
        what = f"a checkpoint needs {words.size(needed)}, and {words.size(free)} are free"
        raise OutputError(what, where=str(parent), hint=hint)


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        shard[name] = tensor
        size += tensor.nbytes
        if size >= _SHARD:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _identity(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake2b": file_hash(file)}


def _progress(folder: Path, manifest: dict[str, Any]) -> Progress:
    """Return the progress that a manifest records, if this version can read it."""
    found, version = manifest.get("progress"), manifest.get("format", 1)
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise Damaged("its manifest names no step")
    unknown = sorted(found.keys() - {field.name for field in fields(Progress)})
    if version != _FORMAT or unknown:
        what = f"this one does not know {', '.join(unknown)}" if unknown else f"this one reads format {_FORMAT}"
        raise OutputError(  # not damaged, which would be skipped, and removed by the next one
            f"another version of rlhf wrote this checkpoint, in format {version}: {what}",
            where=str(folder),
            hint="Resume with that version; --overwrite begins the training again.",
        )
    if not isinstance(manifest.get("tensors"), dict) or not isinstance(manifest.get("settings"), dict):
        raise Damaged("its manifest lists no tensors or no settings")
    return Progress(**found)


def _checked(folder: Path, *, verify: bool) -> tuple[str, dict[str, Any]]:
    """Return the hash of a folder's manifest and the manifest, after a check of the files against it."""
    try:
        checksum, _, text = (folder / MANIFEST).read_text(encoding="utf-8").partition("\n")
        if checksum != text_hash(text):
            raise Damaged("its manifest was changed")
        manifest: dict[str, Any] = json.loads(text)
        files = manifest["files"]
        for name, expected in files.items():
            found = _identity(folder / name) if verify else {**expected, "bytes": (folder / name).stat().st_size}
            if found != expected:
                what = "has another size" if found["bytes"] != expected["bytes"] else "was changed"
                raise Damaged(f"{name} {what}")
    except OSError as error:
        raise Damaged(f"{Path(error.filename or folder).name} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its manifest cannot be read: {error}") from None
    return checksum, manifest


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk.

    Args:
        path: The file or folder.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
