"""Prepare the data of a recipe, or find it prepared.

A store is written beside its place and moved there when it is complete; one that was made from the same inputs is
reused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhfcli import tiny
from rlhfcli.data.dialogues.column_use import column_notes
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.preparation.empty_parts import check_parts, missing_share
from rlhfcli.data.preparation.inputs import Inputs, Replacement, last_only, present_fingerprint, records_sources
from rlhfcli.data.preparation.pipeline import RowPipeline
from rlhfcli.data.sources.sources import Stream, code_identity, file_identity, open_source
from rlhfcli.data.store.counts import raised_share
from rlhfcli.data.store.manifest import damage, read_manifest, write_manifest
from rlhfcli.data.store.prepared import DataStore
from rlhfcli.data.templates.template import ignored_by, writes_date
from rlhfcli.errors import DataError
from rlhfcli.files.atomic import complete_or_absent
from rlhfcli.files.checksums import text_hash
from rlhfcli.progress import Sink
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import DataSection, Recipe
from rlhfcli.runs.ownership import refuse_other_data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DataStore", "Replacement", "prepare", "ready"]

_TOKENIZER_FILES = ("*token*", "*vocab*", "merges*", "*.model", "*.tiktoken", "*.jinja", "config.json")


def ready(recipe: Recipe, folder: Path) -> DataStore | None:
    """Open a store that is up to date by the files of the tokenizer, without loading the tokenizer.

    Args:
        recipe: The recipe; ``model.name``, ``data`` and ``seed`` are used.
        folder: The folder of the store, if there is one.

    Returns:
        The store; ``None`` if there is none, if it is out of date, or if only the loaded tokenizer can tell, because it
        comes from the hub.

    Raises:
        DataError: A source cannot be found.
    """
    quick = _quick(recipe, _open_sources(recipe, folder))
    try:
        if quick is None or read_manifest(folder).get("quick") != quick or damage(folder):
            return None
        return DataStore(folder)
    except (FileNotFoundError, DataError):
        return None  # ``prepare`` reports the damage


def _open_sources(recipe: Recipe, folder: Path) -> list[list[Stream]]:
    try:
        return [open_source(source, recipe.seed, number) for number, source in enumerate(recipe.data.sources)]
    except DataError as error:
        broken = damage(folder) if folder.is_dir() and any(folder.iterdir()) else None
        if broken is None:
            raise
        lost = f"{folder} is damaged, too ({broken}), and can only be made anew from all of its sources."
        raise DataError(error.what, where=error.where, hint=f"{lost}\n{error.hint or ''}".rstrip()) from None


def prepare(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    sink: Sink,
    *,
    anew: bool = False,
    keep_present: Callable[[Replacement], bool] = lambda _: False,
) -> DataStore:
    """Prepare the data of a recipe, or find it prepared, and return the store.

    Args:
        recipe: The recipe, of which ``data`` and ``seed`` are used.
        tokenizer: The tokenizer, with its chat template.
        folder: The folder of the store.
        sink: Shows notes and progress.
        anew: Prepare the data even if it is up to date.
        keep_present: Called before a store is replaced; returns whether to use the present one, or refuses.

    Raises:
        DataError: A source or a row cannot be used, or a part would be empty.
        OutputError: The folder cannot be written, or contains other files.
    """
    with sink.stage("looking at the data sources"):
        inputs = Inputs(recipe, tokenizer, _open_sources(recipe, folder))
        reason = _why_anew(folder, inputs.fingerprint)
    if reason == "" and not anew:
        sink.note(f"prepared data: {folder} is up to date")
        return DataStore(folder)
    refuse_other_data(folder)
    present = "" if anew else present_fingerprint(folder, inputs)
    if keep_present(Replacement(inputs.fingerprint, reason or "is missing", present)):
        sink.note(_kept(folder))
        return DataStore(folder)
    for note in _notes(folder, reason, inputs):
        sink.note(note)
    with complete_or_absent(folder, "the prepared data") as unfinished:
        _write(inputs, unfinished, sink)
    return DataStore(folder)


def _notes(folder: Path, reason: str | None, inputs: Inputs) -> Iterator[str]:
    """Say why a store is replaced, and how its sources are read."""
    if reason:
        yield f"prepared data: {folder} {reason}, and is made anew"
    yield from (stream.note for stream in chain.from_iterable(inputs.streams) if stream.note)


def _kept(folder: Path) -> str:
    unknown = "" if records_sources(folder) else "; whether its sources have changed since then is not recorded"
    return (
        f"prepared data: {folder} was made by another version of rlhf, and is kept for the training that began with it "
        f"(--overwrite begins again){unknown}"
    )


def _write(inputs: Inputs, folder: Path, sink: Sink) -> None:
    """Write all files of a store into an empty folder."""
    recipe, tokenizer, data = inputs.recipe, inputs.tokenizer, inputs.recipe.data
    encoder = Encoder(tokenizer, data.max_length, data.truncation, last_only=last_only(recipe))
    pipeline = _run(recipe.data, inputs.streams, encoder, folder, sink)
    share = missing_share(pipeline.statistics)
    if share is not None:  # too few conversations: the share of one of them is less than a whole one
        sink.note(raised_share(recipe.data.validation, share))
        again = recipe.data.model_copy(update={"validation": share})
        pipeline = _run(again, _open_sources(recipe, folder), encoder, folder, sink)
    check_parts(recipe.data, pipeline.counts, pipeline.statistics)
    ignored = [*ignored_by(tokenizer), *([] if encoder.writes_calls else ["calls"])]
    for stream in chain.from_iterable(inputs.streams):
        if stream.meter.remark:
            sink.note(stream.meter.remark)
    for count in pipeline.counts:
        for line in column_notes(count.columns.shares(), +count.columns.carried, ignored):
            sink.note(f"{count.path}: {line}")
    manifest = {
        **inputs.manifest_entries(),
        "quick": _quick(recipe, inputs.streams),
        "raised_validation": share,
        "ignored": ignored,
        "date": writes_date(tokenizer),
        "sources": [count.as_json() for count in pipeline.counts],
        "tokens": _statistics(recipe, pipeline),
    }
    write_manifest(folder, manifest)


def _run(data: DataSection, streams: list[list[Stream]], encoder: Encoder, folder: Path, sink: Sink) -> RowPipeline:
    with RowPipeline(data, encoder, folder, sink) as pipeline:
        for source, found in zip(data.sources, streams, strict=True):
            pipeline.take(source, found)
    return pipeline


def _statistics(recipe: Recipe, pipeline: RowPipeline) -> dict[str, Any]:
    """Return the statistics of every part, with the batch size of its phase."""
    batch = {"sft": recipe.sft.batch_size, "reward": recipe.reward.batch_size}
    return {
        name: part.as_json(batch[name.partition("_")[0]], recipe.data.max_length)
        for name, part in pipeline.statistics.items()
    }


def _quick(recipe: Recipe, streams: list[list[Stream]]) -> str | None:
    """Return a hash of all inputs with the tokenizer's files in its place; ``None`` if these are not local."""
    name = recipe.model.name
    folder = tiny.model_folder() if name == builtin.TINY else Path(name).expanduser()
    if not folder.is_dir():
        return None
    files = sorted(file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern))
    template = Path(recipe.data.template).expanduser()
    inputs = {
        "code": code_identity("rlhfcli.data"),
        "data": recipe.data.model_dump(),
        "seed": recipe.seed,
        "last_only": last_only(recipe),
        "template": file_identity(template) if template.is_file() else "",
        "tokenizer": [(file.name, file_identity(file)) for file in files],
        "packages": [metadata.version(package) for package in ("transformers", "tokenizers")],
        "contents": [[(stream.name, stream.identity) for stream in found] for found in streams],
    }
    return text_hash(json.dumps(inputs, sort_keys=True))


def _why_anew(folder: Path, fingerprint: str) -> str | None:
    """Return why the store in a folder cannot be reused; empty if it can, ``None`` if there is no store."""
    try:
        stored = read_manifest(folder)["fingerprint"]
    except OSError:  # no folder, or none of ours, which ``refuse_other_data`` finds out
        stored = None
        if not (folder.is_dir() and any(entry.suffix == ".arrow" for entry in folder.iterdir())):
            return None
    except DataError:
        stored = None
    if stored not in (None, fingerprint):
        return "was made of other inputs"
    broken = damage(folder)
    return f"cannot be used ({broken})" if broken else ""
