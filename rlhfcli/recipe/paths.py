"""Local paths in a recipe: beside the recipe file first, then in the working directory."""

from __future__ import annotations

from collections.abc import Callable
from glob import glob
from pathlib import Path

from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import Recipe


def resolve(recipe: Recipe, folder: Path | None, typed: Callable[[KeyPath], bool]) -> Recipe:
    """Make local paths absolute, so that the recipe means the same from its run's folder.

    A pattern (``data/*.jsonl``) stays one, below the first folder in which it matches. A name that exists nowhere
    on this machine is left as it is: it may be a hub name, and if it was meant as a file, whoever opens it says so
    in the words of the recipe.

    Args:
        recipe: All settings.
        folder: Folder of the recipe file; None for a built-in recipe.
        typed: Whether a key comes from ``--set``; such a path is relative to the working directory.

    Returns:
        The recipe with absolute local paths; ``output_dir`` and ``deepspeed.nvme``
        stay relative to the working directory.
    """

    def local(name: str, key: KeyPath) -> str:
        return _local(name, None if typed(key) else folder)

    def named(files: str | dict[str, str] | None, key: KeyPath) -> str | dict[str, str] | None:
        if isinstance(files, dict):
            return {name: local(file, (*key, name)) for name, file in files.items()}
        return None if files is None else local(files, key)

    sources = [
        source.model_copy(update={"path": local(source.path, ("data", "sources", n, "path"))})
        for n, source in enumerate(recipe.data.sources)
    ]
    template = recipe.data.template
    if template.endswith(".jinja"):
        template = local(template, ("data", "template"))
    evaluation = {
        "prompts": named(recipe.eval.prompts, ("eval", "prompts")),
        "pairs": named(recipe.eval.pairs, ("eval", "pairs")),
    }
    raw, nvme = recipe.deepspeed.config, recipe.deepspeed.nvme
    deepspeed = {
        "config": local(raw, ("deepspeed", "config")) if isinstance(raw, str) else raw,
        "nvme": nvme and str(Path(nvme).expanduser()),
    }
    return recipe.model_copy(
        update={
            "output_dir": str(Path(recipe.output_dir).expanduser()),
            "model": recipe.model.model_copy(update={"name": local(recipe.model.name, ("model", "name"))}),
            "data": recipe.data.model_copy(update={"sources": sources, "template": template}),
            "eval": recipe.eval.model_copy(update=evaluation),
            "deepspeed": recipe.deepspeed.model_copy(update=deepspeed),
        }
    )


def _local(name: str, folder: Path | None) -> str:
    if name.startswith(builtin.PREFIX):
        return name
    path = Path(name).expanduser()
    places = [Path.cwd()] if folder is None else [folder, Path.cwd()]
    for place in places:
        try:
            if (place / path).exists():
                return str((place / path).resolve())
            if any(sign in name for sign in "*?[") and glob(str(place / path), recursive=True):
                return str(place / path)
        except (OSError, ValueError):  # too long for a file name, or with a NUL: no path
            return name
    return str(path) if name.startswith("~") else name
