"""The files of a model folder before anything is loaded: are they there, are they what they seem, what do they hold?

Nothing here computes or downloads more than what loading the model needs anyway.
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
PICKLE_HINT = "It could run code, and is not read any further. Ask its maker for safetensors."
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1024  # bytes; a pointer has about 130
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Found:
    """A tensor in a file.

    Args:
        file: Which.
        shape: Its shape.
    """

    file: Path
    shape: tuple[int, ...]


def check_folder(folder: Path) -> None:
    """Refuse what cannot be the folder of a whole model.

    Args:
        folder: It exists.

    Raises:
        ModelError: It has no config or no weights, they are damaged, or it holds something else.
    """
    refuse_pointers(folder)
    model_path.check(folder)
    config = folder / "config.json"
    try:
        read = json.loads(config.read_text(encoding="utf-8"), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"config.json is not JSON: {error}", where=str(config)) from None
    if not isinstance(read, dict):
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

    Raises:
        ModelError: One of its files is a pointer of Git LFS.
    """
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < _POINTER_SIZE and file.read_bytes().startswith(_POINTER):
            raise ModelError(
                f"{file.name} is a pointer of Git LFS, not the file itself",
                where=str(file),
                hint="The repository was cloned without its large files: run git lfs pull in that folder.",
            )


def check_sentencepiece(folder: Path) -> None:
    """Refuse a folder whose tokenizer only the package sentencepiece can read, where that is missing.

    Raises:
        ModelError: It is; transformers would ask for another package.
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


def tensors_of(name: str) -> dict[str, Found]:
    """The tensors of a model by name, with their shapes; read from the heads of its files.

    Args:
        name: Folder or hub name.

    Returns:
        All of a folder's; of a hub name those of the file that may hold a head.

    Raises:
        ModelError: A file cannot be read.
    """
    found: dict[str, Found] = {}
    for file in _weight_files(name):
        found |= tensors_in(file)
    return found


def tensors_in(file: Path) -> dict[str, Found]:
    """The tensors of one file.

    Raises:
        ModelError: It cannot be read.
    """
    return _in_pickle(file) if file.suffix == ".bin" else _in_safetensors(file)


def read_tensor(found: Found, name: str) -> Tensor:
    """Read one tensor.

    Args:
        found: Where it lies.
        name: What it is called there.

    Raises:
        ModelError: It contains NaN or infinite values.
    """
    if found.file.suffix == ".bin":
        tensor = read_pickle(found.file)[name]
    else:
        with safe_open(found.file, "pt") as file:
            tensor = file.get_tensor(name)
    if not tensor.isfinite().all():
        raise ModelError(f"{name} contains NaN or infinite values", where=str(found.file))
    return tensor


def read_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle file, and nothing else: it could run anything.

    Raises:
        ModelError: It cannot be read, or holds something else.
    """
    try:
        with warnings.catch_warnings():  # of odd pickles, which are refused anyway
            warnings.simplefilter("ignore")
            read = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError:
        raise ModelError(PICKLE, where=str(file), hint=PICKLE_HINT) from None
    except Exception as error:  # a damaged pickle raises anything
        raise ModelError(f"the file cannot be read: {error}", where=str(file)) from error
    if not isinstance(read, dict) or not all(isinstance(tensor, Tensor) for tensor in read.values()):
        raise ModelError("the file holds no tensors by name", where=str(file))
    return {str(name): tensor for name, tensor in read.items()}


def _constant(name: str) -> float:
    if name == "NaN":  # Infinity is the value of a few families
        raise ValueError("a value is NaN")
    return float(name)


def _weight_files(name: str) -> list[Path]:
    if os.path.isdir(name):
        folder = Path(name)
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        return [file for file in files if not file.name.startswith("adapter_")]
    index = _of_hub(name, _INDEX)
    if index is None:
        whole = (_of_hub(name, file) for file in ("model.safetensors", "pytorch_model.bin"))
        return [file for file in whole if file is not None][:1]
    placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = sorted({shard for tensor, shard in placed.items() if tensor.count(".") <= 2})  # a head is no deeper
    return [file for shard in shards if (file := _of_hub(name, shard)) is not None]


def _of_hub(name: str, file: str) -> Path | None:
    found: Any = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _in_safetensors(file: Path) -> dict[str, Found]:
    try:
        with safe_open(file, "pt") as content:
            names = list(content.keys())
            return {name: Found(file, tuple(content.get_slice(name).get_shape())) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights cannot be read: {error}", where=str(file)) from None


def _in_pickle(file: Path) -> dict[str, Found]:
    return {name: Found(file, tuple(tensor.shape)) for name, tensor in read_pickle(file).items()}
