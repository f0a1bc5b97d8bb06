"""From the recipe's sources to the store: read, convert, de-duplicate, split, encode, write, count.

The store is made beside its place and moved there when it is whole; one that was made of the same inputs is
used again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli import tiny
from rlhfcli.data.encode import Encoder
from rlhfcli.data.intake import Intake
from rlhfcli.data.sources import Stream, code_identity, file_identity, open_source
from rlhfcli.data.store import MANIFEST, Prepared
from rlhfcli.errors import OutputError
from rlhfcli.progress import Sink
from rlhfcli.recipe import leftovers
from rlhfcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prepared", "prepare", "ready"]

_TOKENIZER_FILES = ("*token*", "*vocab*", "merges*", "*.model", "*.tiktoken", "*.jinja", "config.json")


def ready(recipe: Recipe, folder: Path) -> Prepared | None:
    """Take a store that is up to date without loading the tokenizer: by its files, which takes no time.

    Args:
        recipe: Its ``model.name``, ``data`` and ``seed`` are used.
        folder: Where the store may be.

    Returns:
        The store; ``None`` where there is none, where it is out of date, or where only the tokenizer itself can tell,
        because it comes from the hub.

    Raises:
        DataError: A source cannot be found.
    """
    quick = _quick(recipe, _open_sources(recipe))
    if quick is None or not (folder / MANIFEST).is_file():
        return None
    prepared = Prepared(folder)
    return prepared if prepared.manifest.get("quick") == quick else None


def _open_sources(recipe: Recipe) -> list[list[Stream]]:
    return [open_source(source, recipe.seed, number) for number, source in enumerate(recipe.data.sources)]


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, folder: Path, sink: Sink) -> Prepared:
    """Make the data of a recipe ready for training, or find it ready.

    Args:
        recipe: Its ``data`` and ``seed`` are used.
        tokenizer: With its chat template set.
        folder: Where the store is, or is to be.
        sink: Hears what is going on.

    Returns:
        The store.

    Raises:
        DataError: A source or a row cannot be used, or a part would be empty.
        OutputError: The folder cannot be written, or holds something else.
    """
    sources = recipe.data.sources
    with sink.stage("looking at the data sources"):
        streams = _open_sources(recipe)
        fingerprint = _fingerprint(recipe, tokenizer, streams)
    stored = _stored_fingerprint(folder)
    if stored == fingerprint:
        sink.note(f"prepared data: {folder} is up to date")
        return Prepared(folder)
    if stored is not None:
        sink.note(f"prepared data: {folder} was made of other inputs, and is made anew")
    encoder = Encoder(tokenizer, recipe.data.max_length, recipe.data.truncation)
    with _beside(folder) as unfinished:
        with Intake(recipe.data, encoder, unfinished, sink) as intake:
            for source, found in zip(sources, streams, strict=True):
                intake.take(source, found)
            intake.check()
        manifest = {
            "fingerprint": fingerprint,
            "quick": _quick(recipe, streams),
            "seed": recipe.seed,
            "data": recipe.data.model_dump(),
            "template": tokenizer.chat_template,
            "sources": [count.as_json() for count in intake.counts],
            "tokens": _statistics(recipe, intake),
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return Prepared(folder)


def _statistics(recipe: Recipe, intake: Intake) -> dict[str, Any]:
    """Of every part, with the batches of its phase."""
    batch = {"sft": recipe.sft.batch_size, "reward": recipe.reward.batch_size}
    return {
        name: part.as_json(batch[name.partition("_")[0]], recipe.data.max_length)
        for name, part in intake.statistics.items()
    }


def _fingerprint(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, streams: list[list[Stream]]) -> str:
    """A hash of everything that the store is made of."""
    inputs = {
        "code": code_identity("rlhfcli.data"),
        "data": recipe.data.model_dump(),
        "seed": recipe.seed,
        "template": tokenizer.chat_template,
        "tokenizer": _tokenizer_identity(tokenizer),
        "contents": [[(stream.name, stream.identity) for stream in found] for found in streams],
    }
    return blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()


def _quick(recipe: Recipe, streams: list[list[Stream]]) -> str | None:
    """A hash of the same things, with the tokenizer's files in its place; ``None`` where they are not at hand."""
    name = recipe.model.name
    folder = tiny.model_folder() if name == "builtin:tiny" else Path(name).expanduser()
    if not folder.is_dir():
        return None
    files = sorted(file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern))
    template = Path(recipe.data.template).expanduser()
    inputs = {
        "code": code_identity("rlhfcli.data"),
        "data": recipe.data.model_dump(),
        "seed": recipe.seed,
        "template": file_identity(template) if template.is_file() else "",
        "tokenizer": [(file.name, file_identity(file)) for file in files],
        "packages": [metadata.version(package) for package in ("transformers", "tokenizers")],
        "contents": [[(stream.name, stream.identity) for stream in found] for found in streams],
    }
    return blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    # What was encoded last may have left these behind; they say nothing about the tokens.
    backend.no_truncation()
    backend.no_padding()
    return blake2b(backend.to_str().encode(), digest_size=16).hexdigest()


def _stored_fingerprint(folder: Path) -> str | None:
    """What the store in a folder was made of; ``None`` where there is none.

    Raises:
        OutputError: Something else is there, which must not be overwritten.
    """
    if not folder.exists():
        return None
    manifest = folder / MANIFEST
    try:
        if not any(folder.iterdir()):
            return None
        return str(json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(
            "the folder for the prepared data holds something else",
            where=str(folder),
            hint="Nothing was touched. Choose another output_dir, or move that folder away.",
        ) from None


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of another one when the block ends well, and is gone otherwise."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for _, path in leftovers.left(folder):
            shutil.rmtree(path, ignore_errors=True)
        unfinished = leftovers.beside(folder)
        unfinished.mkdir()
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written: {error.strerror}",
            where=str(folder),
            hint="Choose another output_dir.",
        ) from None
    try:
        yield unfinished
        _replace(folder, unfinished)
    except OSError as error:
        raise OutputError(
            f"the prepared data cannot be written: {error.strerror or error}", where=str(folder)
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    old = leftovers.beside(folder, "old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
