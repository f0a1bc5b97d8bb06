"""From the recipe's sources to the store: read, convert, de-duplicate, split, encode, write, count.

The store is made beside its place and moved there when it is whole; one that was made of the same inputs is
used again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli.data.encode import Encoder
from rlhfcli.data.intake import Intake
from rlhfcli.data.sources import Stream, code_identity, open_source
from rlhfcli.data.store import MANIFEST, Prepared
from rlhfcli.errors import OutputError
from rlhfcli.progress import Sink
from rlhfcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prepared", "prepare"]


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
        streams = [open_source(source, recipe.seed, number) for number, source in enumerate(sources)]
        fingerprint = _fingerprint(recipe, tokenizer, streams)
    stored = _stored_fingerprint(folder)
    if stored == fingerprint:
        sink.note(f"prepared data: {folder} is up to date")
        return Prepared(folder)
    if stored is not None:
        sink.note(f"prepared data: {folder} was made of other inputs, and is made anew")
    encoder = Encoder(tokenizer, recipe.data.max_length, recipe.data.truncation)
    with _beside(folder) as unfinished:
        with Intake(recipe.data, encoder, unfinished) as intake:
            for source, found in zip(sources, streams, strict=True):
                with sink.stage(f"preparing {source.path}"):
                    intake.take(source, found)
            intake.check()
        manifest = {
            "fingerprint": fingerprint,
            "seed": recipe.seed,
            "data": recipe.data.model_dump(),
            "template": tokenizer.chat_template,
            "sources": [count.as_json() for count in intake.counts],
            "tokens": {name: asdict(count) for name, count in intake.tokens.items()},
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return Prepared(folder)


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
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written: {error.strerror}",
            where=str(folder),
            hint="Choose another output_dir.",
        ) from None
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())  # mkdtemp lets nobody else in
        _replace(folder, unfinished)
    except OSError as error:
        raise OutputError(
            f"the prepared data cannot be written: {error.strerror or error}", where=str(folder)
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    old: Any = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        os.replace(folder, old)
    os.replace(new, folder)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
