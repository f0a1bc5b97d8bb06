"""The first look at what a user calls a model: without torch, so that a slip is named at once and not after loading."""

from __future__ import annotations

import difflib
from pathlib import Path

from rlhfcli.errors import ModelError
from rlhfcli.files.run_layout import FINAL, PHASES, final

_BELOW = (Path(FINAL), *(final(Path(), phase) for phase in PHASES))  # where a run and its phases have their models
_HUB_OR_FOLDER = "Give a model folder, or a name on the hub."


def check(name: str | Path, *, hint: str = _HUB_OR_FOLDER, local: bool | None = None, adapters: bool = False) -> None:
    """Refuse a folder that is none, or that holds no model.

    Args:
        name: Folder or hub name.
        hint: What to do where nothing like it is there.
        local: It is a folder. Left out: that goes by its looks, and a name of the hub is let through.
        adapters: The folder of an adapter will do, too.

    Raises:
        ModelError: It cannot be a model; what may have been meant is named.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if adapters and (folder / "adapter_config.json").is_file():
            return
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            what = "this is the folder of an adapter, not of a whole model"
            raise ModelError(what, where=str(name), hint="Merge it into its base model: rlhf export FOLDER TO.")
        if not (folder / "config.json").is_file():
            meant = [folder / below for below in _BELOW if (folder / below / "config.json").is_file()]
            hint = did_you_mean(meant) or "A model folder has config.json and *.safetensors."
            raise ModelError("not a model folder: it has no config.json", where=str(name), hint=hint)
    elif local or (local is None and _looks_local(str(name))):
        what = "there is no such folder" if not folder.exists() else "this is a file and no model folder"
        raise ModelError(what, where=str(name), hint=did_you_mean(_near(folder)) or hint)


def did_you_mean(places: list[Path]) -> str:
    """``Did you mean a or b?``, empty where there is nothing to mean."""
    return f"Did you mean {' or '.join(map(str, places))}?" if places else ""


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _near(folder: Path) -> list[Path]:
    """A folder of much the same name, and the models in it."""
    if folder.is_file():
        return [folder.parent] if (folder.parent / "config.json").is_file() else []
    try:
        there = next(place for place in folder.parents if place.is_dir())
        names = [each.name for each in there.iterdir() if each.is_dir()]
    except (StopIteration, OSError):
        return []
    wanted, *rest = folder.relative_to(there).parts
    for name in difflib.get_close_matches(wanted, names, n=1, cutoff=0.6):
        near = there.joinpath(name, *rest)
        found = [place for place in (near, *(near / below for below in _BELOW)) if (place / "config.json").is_file()]
        return found or ([near] if near.is_dir() else [])
    return []
