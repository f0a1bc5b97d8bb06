"""The first check of a model's path or name: without torch, so that a typing error is reported at once."""

from __future__ import annotations

import difflib
from pathlib import Path

from rlhfcli.errors import ModelError
from rlhfcli.files.run_layout import FINAL, PHASES, final

_BELOW = (Path(FINAL), *(final(Path(), phase) for phase in PHASES))  # where runs and phases keep their models
_HUB_OR_FOLDER = "Give a model folder, or a name on the hub."


def check(name: str | Path, *, hint: str = _HUB_OR_FOLDER, local: bool | None = None, adapters: bool = False) -> None:
    """Check that a folder exists and holds a model; a hub name passes.

    Args:
        name: Folder or hub name.
        hint: What to do if no similar folder exists.
        local: Whether the name means a folder; ``None``: decide by its form.
        adapters: Whether the folder of an adapter is accepted, too.

    Raises:
        ModelError: It cannot be a model; the hint names similar folders.
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
        raise ModelError(what, where=str(name), hint=did_you_mean(_similar(folder)) or hint)


def did_you_mean(places: list[Path]) -> str:
    """Format ``Did you mean a or b?``; empty without places.

    Args:
        places: Candidates.
    """
    return f"Did you mean {' or '.join(map(str, places))}?" if places else ""


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _similar(folder: Path) -> list[Path]:
    """Find models in a folder with a similar name."""
    if folder.is_file():
        return [folder.parent] if (folder.parent / "config.json").is_file() else []
    try:
        there = next(place for place in folder.parents if place.is_dir())
        names = [each.name for each in there.iterdir() if each.is_dir()]
    except (StopIteration, OSError):
        return []
    wanted, *rest = folder.relative_to(there).parts
    for name in difflib.get_close_matches(wanted, names, n=1, cutoff=0.6):
        similar = there.joinpath(name, *rest)
        found = [
            place for place in (similar, *(similar / below for below in _BELOW)) if (place / "config.json").is_file()
        ]
        return found or ([similar] if similar.is_dir() else [])
    return []
