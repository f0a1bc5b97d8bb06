"""Local paths in a recipe: relative to the recipe file first, then to the working directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from rlhfcli.files.strict_yaml import KeyPath
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import DataSection, DeepspeedSection, EvalSection, Recipe


def resolve(recipe: Recipe, folder: Path | None, is_typed: Callable[[KeyPath], bool]) -> Recipe:
    """Make local paths absolute, so that the recipe means the same from its run's folder.

    A pattern (``data/*.jsonl``) stays one, below the first folder in which it matches. A name that does not exist on
    this machine stays as it is: it may be a hub name, and if not, opening it reports it as it is written here.

    Args:
        recipe: All settings.
        folder: Folder of the recipe file; ``None`` for a built-in recipe.
        is_typed: Tells whether a key comes from ``--set``; such a path is relative to the working directory.

    Returns:
        The recipe with absolute local paths; ``output_dir`` and ``deepspeed.nvme`` stay relative to the working
        directory.
    """
    resolver = _Resolver(folder, is_typed)
    name = resolver.local(recipe.model.name, ("model", "name"))
    return recipe.model_copy(
        update={
            "output_dir": str(Path(recipe.output_dir).expanduser()),
            "model": recipe.model.model_copy(update={"name": name}),
            "data": resolver.data(recipe.data),
            "eval": resolver.evaluation(recipe.eval),
            "deepspeed": resolver.deepspeed(recipe.deepspeed),
        }
    )


@dataclass(frozen=True)
class _Resolver:
    """Resolves the paths of a recipe; see ``resolve``."""

    folder: Path | None
    is_typed: Callable[[KeyPath], bool]

    def local(self, name: str, key: KeyPath) -> str:
        return _local(name, None if self.is_typed(key) else self.folder)

    def named(self, files: str | dict[str, str] | None, key: KeyPath) -> str | dict[str, str] | None:
        if isinstance(files, dict):
            return {name: self.local(file, (*key, name)) for name, file in files.items()}
        return None if files is None else self.local(files, key)

    def data(self, section: DataSection) -> DataSection:
        sources = [
            source.model_copy(update={"path": self.local(source.path, ("data", "sources", n, "path"))})
            for n, source in enumerate(section.sources)
        ]
        template = section.template
        if template.endswith(".jinja"):
            template = self.local(template, ("data", "template"))
        return section.model_copy(update={"sources": sources, "template": template})

    def evaluation(self, section: EvalSection) -> EvalSection:
        prompts = self.named(section.prompts, ("eval", "prompts"))
        pairs = self.named(section.pairs, ("eval", "pairs"))
        return section.model_copy(update={"prompts": prompts, "pairs": pairs})

    def deepspeed(self, section: DeepspeedSection) -> DeepspeedSection:
        config, nvme = section.config, section.nvme
        if isinstance(config, str):
            config = self.local(config, ("deepspeed", "config"))
        return section.model_copy(update={"config": config, "nvme": nvme and str(Path(nvme).expanduser())})


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
        except (OSError, ValueError):  # too long for a file name, or with a NUL character
            return name
    return str(path) if name.startswith("~") else name
