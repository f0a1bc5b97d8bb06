"""Which files of a folder are read: its configuration, its split, and what is left alone.

A folder may be a collection of files, a copy of a data set of the hub (whose ``README.md`` may name configurations
and splits), or what ``save_to_disk`` of the datasets library has written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from rlhfcli.data.reading.file_names import KNOWN, Label, is_data_file, is_in_split, label_of, split_names, word_of
from rlhfcli.errors import DataError

TRAIN = ("train",)
MEASURE = ("test", "eval", "validation", "train")  # for what is measured with
_SHOWN = 5  # files that a line names
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")  # of datasets
_HIDDEN = ("__MACOSX", "__pycache__")
_LONGEST = 1 << 18  # characters of a README that are looked at
_PATTERN = "A pattern takes other files: path={folder}/**/*"


@dataclass(frozen=True)
class Choice:
    """Which part of a data set is wanted.

    Args:
        split: As the recipe names it; ``None`` where it does not.
        subset: The configuration, likewise.
        usual: Splits to take where the recipe names none, the first that is there.
        usual_subset: The configuration, or folder, to take where the recipe names none, if it is there.
        number: The place of the source in the recipe, for messages.
    """

    split: str | None = None
    subset: str | None = None
    usual: tuple[str, ...] = TRAIN
    usual_subset: str | None = None
    number: int | None = None

    def advice(self, key: str, value: str) -> str:
        """What to do to choose a part, for a message."""
        if self.number is None:
            return "Name one of its files."
        return f"Choose one: --set data.sources.{self.number}.{key}={value}"


Named = list[tuple[Path, Label]]


def files_of(folder: Path, choice: Choice) -> tuple[list[Path], str]:
    """Choose the files of a folder.

    Args:
        folder: Exists.
        choice: What is wanted.

    Returns:
        Files in alphabetical order, at least one; and a line that says what is read and what is left alone, empty
        where that is all.

    Raises:
        DataError: It holds no data files; or no such split or configuration.
    """
    every, closed = _walked(folder)
    hidden = [file for file in every if _is_hidden(file.relative_to(folder))]
    files = [file for file in every if file not in set(hidden) and not _is_cache(file)]
    unseen = f"; not looked into: {', '.join(closed)}" if closed else ""
    if not files:
        only = f" but hidden ones ({_listed(folder, hidden)})" if hidden else ""
        raise DataError(f"the folder holds no data files{only}{unseen}", where=str(folder), hint=KNOWN)
    named, readme = _of_configuration(folder, files, choice)
    chosen = of_split(folder, named, choice, readme)
    others = [file for file in (*files, *hidden) if file not in set(chosen)]
    alone = f"; left alone: {_listed(folder, others)}" if others else ""
    return chosen, f"{folder}: reading {_listed(folder, chosen)}{alone}{unseen}" if alone or unseen else ""


def _walked(folder: Path) -> tuple[list[Path], list[str]]:
    """The data files below a folder, and the folders that are not looked into, with the reason."""
    found: list[Path] = []
    closed: list[str] = []

    def close(inner: Path, why: str | None) -> None:
        if not _is_hidden(inner.relative_to(folder)):
            closed.append(f"{inner.relative_to(folder)} ({why})")

    for place, folders, names in os.walk(folder, onerror=lambda error: close(Path(error.filename), error.strerror)):
        for inner in (Path(place, name) for name in folders):
            if inner.is_symlink():
                close(inner, "a link")
        # A link to nothing counts: whoever opens it says so.
        found += [Path(place, name) for name in names if is_data_file(Path(name))]
    return sorted(found), sorted(closed)


def of_split(folder: Path, named: Named, choice: Choice, readme: Path | None = None) -> list[Path]:
    """Choose the files of a split.

    Args:
        folder: For messages.
        named: Files with what they are called, at least one.
        choice: What is wanted.
        readme: Names the splits, where there is one that does.

    Returns:
        At least one file.

    Raises:
        DataError: None is of that split; or several splits are there, and none is the usual one.
    """
    there = split_names([label for _, label in named])
    where, who = str(readme or folder), "configs" if readme else "files"
    if choice.split is not None:
        found = _of(named, choice.split)
        if not found and not (there or choice.split != "train"):
            return [file for file, _ in named]  # it is all one
        if found:
            return found
        near = get_close_matches(choice.split, there, 1)
        what = f"there is no split {choice.split!r} here" + (f"; did you mean {near[0]}?" if near else "")
        cut = " A part of a split, such as train[:10], is only known for data sets of the hub: use limit." * (
            "[" in choice.split
        )
        names = f"Its {who} name: {', '.join(there)}." if there else f"Its {who} name no splits: leave split out."
        raise DataError(what, where=where, hint=names + cut)
    for split in choice.usual:
        if found := _of(named, split):
            return found
    other = {label.name for _, label in named if label.word is None}
    if len(other - {None}) <= 1 and other:  # pairs-00000-of-00002.parquet is no split beside test.parquet
        return [file for file, label in named if label.word is None]
    wanted = " or ".join(choice.usual)
    raise DataError(
        f"its {who} name the split{'s' * (len(there) > 1)} {', '.join(there)}, and none is called {wanted}",
        where=where,
        hint=f"{choice.advice('split', there[0])}\n{_PATTERN.format(folder=folder)}",
    )


def _of(named: Named, split: str) -> list[Path]:
    exact = [file for file, label in named if is_in_split(label, split)]
    if exact or split.lower() != word_of(split):
        return exact
    # ships_train-00000-of-00001.parquet, if it is the only one of its word
    alike = [(file, label) for file, label in named if label.word == split.lower()]
    return [file for file, _ in alike] if len({label.name for _, label in alike}) == 1 else []


# --- configurations -----------------------------------------------------------------------------------------


def _of_configuration(folder: Path, files: list[Path], choice: Choice) -> tuple[Named, Path | None]:
    """The files of the configuration that is wanted, with what they are called; the README if that says so."""
    described, default = _of_readme(folder, files)
    if described:
        return described[_chosen(folder, described, default, choice)], folder / "README.md"
    named = _of_dictionary(folder, files) or [(file, label_of(file.relative_to(folder))) for file in files]
    within = {file: [part.lower() for part in file.relative_to(folder).parts[:-1]] for file in files}
    wanted = choice.subset or choice.usual_subset
    if wanted is not None:
        found = [(file, label) for file, label in named if wanted.lower() in within[file]]
        if found:
            return found, None
    if choice.subset is not None:
        there = sorted({part for file in files for part in file.relative_to(folder).parts[:-1]} - {"data"})
        there = [name for name in there if word_of(name) is None]
        names = f"Its folders: {', '.join(there)}." if there else "It has none: leave subset out."
        raise DataError(f"there is no configuration {choice.subset!r} here", where=str(folder), hint=names)
    return named, None


def _chosen(folder: Path, described: Mapping[str, Named], default: str | None, choice: Choice) -> str:
    """The name of a configuration of the README."""
    names = list(described)
    wanted = choice.subset or choice.usual_subset
    for name in names:
        if wanted is not None and name.lower() == wanted.lower():
            return name
    if choice.subset is None and (default is not None or len(names) == 1):
        return default or names[0]
    what = f"the data set has the configurations {', '.join(names)}"
    what = what if choice.subset is None else f"there is no configuration {choice.subset!r} here: {what}"
    near = get_close_matches(choice.subset or "", names, 1) or names
    raise DataError(
        what,
        where=str(folder / "README.md"),
        hint=f"{choice.advice('subset', near[0])}\n{_PATTERN.format(folder=folder)}",
    )


def _of_readme(folder: Path, files: Sequence[Path]) -> tuple[dict[str, Named], str | None]:
    """The configurations that a README of the hub describes, with those of their files that are here; the default."""
    described: dict[str, Named] = {}
    default = None
    for entry in _entries(folder / "README.md"):
        name = str(entry.get("config_name", "default"))
        root = folder / str(entry.get("data_dir") or ".")
        inside = [file for file in files if file.is_relative_to(root)]
        found: dict[Path, Label] = {}
        for split, patterns in _data_files(entry.get("data_files")):
            for file in _matching(root, patterns, inside):
                label = label_of(file.relative_to(root))
                found[file] = label if split is None else Label(split, word_of(split), label.stem)
        if found:
            described[name] = sorted(found.items(), key=lambda item: item[0])
            default = name if name == "default" or entry.get("default") is True else default
    return described, default


def _entries(readme: Path) -> list[dict[str, Any]]:
    try:
        text = readme.read_text(encoding="utf-8")[:_LONGEST]
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError, RecursionError):
        return []
    entries = head.get("configs") if isinstance(head, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _data_files(value: Any) -> Iterable[tuple[str | None, list[str]]]:
    """Splits with their patterns, of all the ways in which ``data_files`` is written."""
    if value is None:
        yield None, ["**"]
    elif isinstance(value, str):
        yield None, [value]
    elif isinstance(value, dict):
        yield from ((str(split), _texts(patterns)) for split, patterns in value.items())
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield str(item.get("split", "train")), _texts(item.get("path"))
            else:
                yield None, _texts(item)


def _texts(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _matching(root: Path, patterns: Iterable[str], files: Sequence[Path]) -> Iterable[Path]:
    for pattern in patterns:
        tail = pattern.removeprefix("./")
        yield from (file for file in files if _matches(file.relative_to(root), tail))


def _matches(file: Path, pattern: str) -> bool:
    """``Path.match`` from the beginning; ``**`` stands for any folders, or everything below."""
    if pattern in ("**", "**/*"):
        return True
    if "**" in pattern:
        before, _, after = pattern.partition("**")
        return file.as_posix().startswith(before) and file.match(after.lstrip("/") or "*")
    return len(file.parts) == len(Path(pattern).parts) and file.match(pattern)


def _of_dictionary(folder: Path, files: Sequence[Path]) -> Named:
    """The splits that ``DatasetDict.save_to_disk`` has written, each into a folder of its name."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        wanted = {str(split) for split in splits}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    first = [(file, file.relative_to(folder).parts[0]) for file in files]
    return [(file, Label(part, word_of(part), part)) for file, part in first if part in wanted]


# --- what is no data ----------------------------------------------------------------------------------------


def _is_hidden(path: Path) -> bool:
    """What a system or a program keeps for itself: ``._x.jsonl``, ``.ipynb_checkpoints/``, ``__MACOSX/``."""
    return any(part.startswith(".") or part in _HIDDEN for part in path.parts)


def _is_cache(file: Path) -> bool:
    """What datasets leaves beside its own files, and what describes them."""
    return file.name in _DESCRIPTIONS or file.match("cache-*.arrow")


def _listed(folder: Path, files: Sequence[Path]) -> str:
    shown = ", ".join(str(file.relative_to(folder)) for file in files[:_SHOWN])
    return shown + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
