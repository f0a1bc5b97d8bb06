"""Checking and reading the files of a model folder before the model is loaded.

Nothing here downloads more than loading the model needs anyway.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from rlhfcli.errors import ModelError
from rlhfcli.files import checksums, model_path

PICKLE = "the file is a pickle that holds more than tensors"
PICKLE_HINT = "It could run code and is not read. Ask its maker for safetensors."
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_SIZE = 1024  # bytes; a pointer has about 130
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorInFile:
    """The place and the shape of a tensor that has not been read.

    Args:
        file: The file that holds it.
        shape: The shape, read from the header of the file.
    """

    file: Path
    shape: tuple[int, ...]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be that of a whole model.

    Args:
        folder: An existing folder.

    Raises:
        ModelError: It has no config or no weights, or they are damaged.
    """
    refuse_pointers(folder)
    model_path.check(folder)
    config = folder / "config.json"
    try:
        content = json.loads(config.read_text(encoding="utf-8"), parse_constant=_parse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"config.json is not JSON: {error}", where=str(config)) from None
    if not isinstance(content, dict):
        raise ModelError("config.json holds no keys", where=str(config))
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            "the model folder has no weights",
            where=str(folder),
            hint="It needs model.safetensors (or several, with an index). Was its download or its save interrupted?",
        )
    checksums.verify(folder)


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder that was cloned without its large files.

    Args:
        folder: An existing folder.

    Raises:
        ModelError: One of its files is a pointer of Git LFS.
    """
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < _MAX_POINTER_SIZE and file.read_bytes().startswith(_LFS_POINTER):
            raise ModelError(
                f"{file.name} is a pointer of Git LFS, not the file itself",
                where=str(file),
                hint="The repository was cloned without its large files: run git lfs pull in that folder.",
            )


def check_sentencepiece(folder: Path) -> None:
    """Refuse a tokenizer that needs the package sentencepiece, where that is not installed.

    Args:
        folder: An existing folder.

    Raises:
        ModelError: The package is missing; transformers would ask for another one.
    """
    if (folder / "tokenizer.json").is_file() or find_spec("sentencepiece") is not None:
        return
    for file in sorted(folder.glob("*.model")):
        with file.open("rb") as content:
            if content.read(1) == b"\n":  # the first field of SentencePiece's format; tiktoken's files are text
                raise ModelError(
                    f"the tokenizer is a SentencePiece model ({file.name}), and the package sentencepiece is missing",
                    where=str(folder),
                    hint="pip install sentencepiece protobuf; or put the model's tokenizer.json into the folder.",
                )


def tensors_of(name: str) -> dict[str, TensorInFile]:
    """List the tensors of a model by the headers of its files.

    Args:
        name: Folder or hub name.

    Returns:
        All tensors of a folder, by name; of a model on the Hub those in the files that may hold a head.

    Raises:
        ModelError: A file cannot be read.
    """
    tensors: dict[str, TensorInFile] = {}
    for file in _weight_files(name):
        tensors |= tensors_in(file)
    return tensors


def tensors_in(file: Path) -> dict[str, TensorInFile]:
    """List the tensors of one file by its header.

    Args:
        file: Safetensors, or a pickle (``.bin``).

    Returns:
        The tensors by name.

    Raises:
        ModelError: It cannot be read.
    """
    return _in_pickle(file) if file.suffix == ".bin" else _in_safetensors(file)


def read_tensor(entry: TensorInFile, name: str) -> Tensor:
    """Read one tensor.

    Args:
        entry: The place of the tensor.
        name: The name of the tensor in its file.

    Returns:
        The tensor, on the CPU.

    Raises:
        ModelError: It contains NaN or infinite values.
    """
    if entry.file.suffix == ".bin":
        tensor = read_pickle(entry.file)[name]
    else:
        with safe_open(entry.file, "pt") as file:
            tensor = file.get_tensor(name)
    if not tensor.isfinite().all():
        raise ModelError(f"{name} contains NaN or infinite values", where=str(entry.file))
    return tensor


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Read a pickle of tensors. Pickles of anything else, which could run code, are refused.

    Args:
        file: The pickle; mapped into memory where its format allows it.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        ModelError: It cannot be read, or holds something else.
    """
    try:
        with warnings.catch_warnings():  # about unusual pickles, which are refused anyway
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError:
        raise ModelError(PICKLE, where=str(file), hint=PICKLE_HINT) from None
    except Exception as error:  # damaged pickles raise arbitrary exceptions
        raise ModelError(f"the file cannot be read: {error}", where=str(file)) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ModelError("the file holds no tensors by name", where=str(file))
    return {str(name): tensor for name, tensor in content.items()}


def json_or_empty(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        file: Any file.

    Returns:
        The object; empty where the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _parse_constant(name: str) -> float:
    if name == "NaN":  # a few families have Infinity in their configs
        raise ValueError("a value is NaN")
    return float(name)


def _weight_files(name: str) -> list[Path]:
    if os.path.isdir(name):
        folder = Path(name)
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        return [file for file in files if not file.name.startswith("adapter_")]
    index = _from_hub(name, _INDEX)
    if index is None:
        whole = (_from_hub(name, file) for file in ("model.safetensors", "pytorch_model.bin"))
        return [file for file in whole if file is not None][:1]
    shard_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = sorted({shard for tensor, shard in shard_of.items() if tensor.count(".") <= 2})  # a head is no deeper
    return [file for shard in shards if (file := _from_hub(name, shard)) is not None]


def _from_hub(name: str, file: str) -> Path | None:
    path: Any = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def _in_safetensors(file: Path) -> dict[str, TensorInFile]:
    try:
        with safe_open(file, "pt") as content:
            names = list(content.keys())
            return {name: TensorInFile(file, tuple(content.get_slice(name).get_shape())) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights cannot be read: {error}", where=str(file)) from None


def _in_pickle(file: Path) -> dict[str, TensorInFile]:
    return {name: TensorInFile(file, tuple(tensor.shape)) for name, tensor in read_pickle(file).items()}
