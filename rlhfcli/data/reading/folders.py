"""Choose the files of a folder that are read, by configuration and split, and report those that are not.

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
MEASURE = ("test", "eval", "validation", "train")  # for evaluation
_SHOWN = 5  # files that a line names
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")  # of datasets
_HIDDEN = ("__MACOSX", "__pycache__")
_LONGEST = 1 << 18  # characters of a README that are looked at
_PATTERN = "A pattern takes other files: path={folder}/**/*"


@dataclass(frozen=True)
class Choice:
    """The part of a data set to read.

    Args:
        split: The split that the recipe names, or ``None``.
        subset: The configuration that the recipe names, or ``None``.
        usual: The splits to look for if the recipe names none; the first that exists is read.
        usual_subset: The configuration, or folder, to read if the recipe names none and it exists.
        number: The index of the source in the recipe, for messages.
    """

    split: str | None = None
    subset: str | None = None
    usual: tuple[str, ...] = TRAIN
    usual_subset: str | None = None
    number: int | None = None

    def advice(self, key: str, value: str) -> str:
        """Return a hint that says how to choose a part.

        Args:
            key: The key of the source: ``split`` or ``subset``.
            value: A value to propose for it.
        """
        if self.number is None:
            return "Name one of its files."
        return f"Choose one: --set data.sources.{self.number}.{key}={value}"


Named = list[tuple[Path, Label]]


def files_of(folder: Path, choice: Choice) -> tuple[list[Path], str]:
    """Choose the files of a folder.

    Args:
        folder: An existing folder.
        choice: The part to read.

    Returns:
        At least one file, in alphabetical order; and a line that says which files are read and which are not, empty if
        all are read.

    Raises:
        DataError: The folder contains no data files, or no such split or configuration.
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
    """Return the data files below a folder, and the folders that are not searched, each with the reason."""
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
        folder: The folder, for messages.
        named: At least one file, each with its label.
        choice: The part to read.
        readme: The README that names the splits, if there is one.

    Returns:
        At least one file.

    Raises:
        DataError: No file belongs to that split; or there are several splits, and none of the usual ones.
    """
    there = split_names([label for _, label in named])
    where, who = str(readme or folder), "configs" if readme else "files"
    if choice.split is not None:
        found = _of(named, choice.split)
        if not found and not there and choice.split == "train":
            return [file for file, _ in named]  # files without splits are all of the training split
        if not found:
            raise _no_such_split(choice.split, there, where, who)
        return found
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


def _no_such_split(split: str, there: Sequence[str], where: str, who: str) -> DataError:
    near = get_close_matches(split, there, 1)
    what = f"there is no split {split!r} here" + (f"; did you mean {near[0]}?" if near else "")
    hint = f"Its {who} name: {', '.join(there)}." if there else f"Its {who} name no splits: leave split out."
    if "[" in split:
        hint += " A part of a split, such as train[:10], is only known for data sets of the hub: use limit."
    return DataError(what, where=where, hint=hint)


def _of(named: Named, split: str) -> list[Path]:
    exact = [file for file, label in named if is_in_split(label, split)]
    if exact or split.lower() != word_of(split):
        return exact
    # ships_train-00000-of-00001.parquet, if it is the only one of its word
    alike = [(file, label) for file, label in named if label.word == split.lower()]
    return [file for file, _ in alike] if len({label.name for _, label in alike}) == 1 else []


# --- configurations -----------------------------------------------------------------------------------------


def _of_configuration(folder: Path, files: list[Path], choice: Choice) -> tuple[Named, Path | None]:
    """Return the files of the chosen configuration with their labels; and the README, if that describes it."""
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
    """Return the name of the chosen configuration of a README."""
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
    """Return the configurations that a README describes, each with its files in the folder; and the default one."""
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
    """Yield splits with their patterns, of any form that ``data_files`` may have."""
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
    """Match a whole path; ``**`` stands for any folders, or everything below."""
    if pattern in ("**", "**/*"):
        return True
    if "**" in pattern:
        before, _, after = pattern.partition("**")
        return file.as_posix().startswith(before) and file.match(after.lstrip("/") or "*")
    return len(file.parts) == len(Path(pattern).parts) and file.match(pattern)


def _of_dictionary(folder: Path, files: Sequence[Path]) -> Named:
    """Return the files of the splits that ``DatasetDict.save_to_disk`` wrote, each into a folder of its name."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        wanted = {str(split) for split in splits}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    first = [(file, file.relative_to(folder).parts[0]) for file in files]
    return [(file, Label(part, word_of(part), part)) for file, part in first if part in wanted]


# --- files that are not data --------------------------------------------------------------------------------


def _is_hidden(path: Path) -> bool:
    """Return whether a file belongs to a system or a program: ``._x.jsonl``, ``.ipynb_checkpoints/``, ``__MACOSX/``."""
    return any(part.startswith(".") or part in _HIDDEN for part in path.parts)


def _is_cache(file: Path) -> bool:
    """Return whether the datasets library wrote a file as a cache or as a description."""
    return file.name in _DESCRIPTIONS or file.match("cache-*.arrow")


def _listed(folder: Path, files: Sequence[Path]) -> str:
    shown = ", ".join(str(file.relative_to(folder)) for file in files[:_SHOWN])
    return shown + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
