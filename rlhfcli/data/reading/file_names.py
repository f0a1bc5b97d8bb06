"""Read from a file's name whether it contains rows, and of which split: train, test, ``train_prefs`` ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".zst", ".bz2", ".xz")
KNOWN = f"Known: {', '.join(SUFFIXES)}, and {', '.join(PACKED)} of any."
_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
    "eval": "eval", "evaluation": "eval",
}  # fmt: skip
_ANYWHERE = ("train", "training", "validation", "test", "testing")  # words that hardly mean anything else
_SHARD = re.compile(r"(?P<name>.+?)-\d{5}-of-\d{5}(-\w+)?")


def without_packing(path: Path) -> Path:
    """Return a path without ``.gz`` and the like.

    Args:
        path: The path of a file.
    """
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def is_data_file(path: Path) -> bool:
    """Return whether a file contains rows, by its name.

    Args:
        path: The path of the file.
    """
    return without_packing(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Label:
    """The split of a file, as its name tells it.

    Args:
        name: The split; ``None`` if neither the file's name nor its folders' names tell it.
        word: The usual word for that split: train, validation, test or eval.
        stem: The name of the file without its suffix and its shard number.
    """

    name: str | None
    word: str | None
    stem: str


def label_of(path: Path) -> Label:
    """Read a file's name and those of its folders; the inner ones count more.

    ``train-00000-of-00002.parquet``, ``ships_test.jsonl``, ``ships.train.jsonl``, ``training.jsonl`` and
    ``test/0.jsonl`` say it; so does ``raw-00000-of-00001.parquet``, as the hub writes any split.

    Args:
        path: The path of the file, relative to the folder of the data set.
    """
    stem = without_packing(path).stem
    shard = _SHARD.fullmatch(stem)
    name = shard["name"] if shard else stem
    for part in (name, *reversed(path.parts[:-1])):
        if (word := word_of(part)) is not None:
            of_the_hub = shard is not None and part is name
            return Label(part if of_the_hub and part.lower() not in _WORDS else word, word, name)
    return Label(name if shard and name.lower() not in ("data", "part") else None, None, name)


def word_of(name: str) -> str | None:
    """Return the usual word for the split that a name begins or ends with, or clearly contains.

    Args:
        name: The name of a file without its suffix, of a folder, or of a split.

    Returns:
        train, validation, test or eval; ``None`` if the name contains no such word.
    """
    tokens = [token.rstrip("0123456789") for token in re.split(r"[\W_]+", name.lower())]
    tokens = [token for token in tokens if token]
    for token in (*tokens[:1], *tokens[-1:]):
        if token in _WORDS:
            return _WORDS[token]
    return next((_WORDS[token] for token in tokens if token in _ANYWHERE), None)


def is_split_word(name: str) -> bool:
    """Return whether a name is a usual word for a split, and nothing else.

    Args:
        name: The name.
    """
    return name.lower() in _WORDS


def is_in_split(label: Label, split: str) -> bool:
    """Return whether a file belongs to a split.

    Args:
        label: The label of the file.
        split: The split, as the recipe names it.
    """
    wanted = split.lower()
    if label.name is not None and label.name.lower() == wanted:
        return True
    return label.stem.lower() == wanted or (label.name == label.word is not None and label.word == _WORDS.get(wanted))


def split_names(labels: Sequence[Label]) -> list[str]:
    """Return the splits that labels name, sorted.

    Args:
        labels: The labels of some files.
    """
    return sorted({label.name for label in labels if label.name is not None})
