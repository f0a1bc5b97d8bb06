"""The Python code that a recipe allows to run: announced before it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rlhfcli.files import run_layout
from rlhfcli.recipe import builtin
from rlhfcli.recipe.schema import Recipe


def notes(recipe: Recipe) -> Iterator[str]:
    """Describe the code that may run.

    Args:
        recipe: A recipe as loaded, whose ``model.trust_remote_code`` is in effect.

    Yields:
        One line for each origin of code.
    """
    if not recipe.model.trust_remote_code:
        return
    run, name = Path(recipe.output_dir), recipe.model.name
    folders = [Path(name).expanduser(), *(run_layout.final(run, phase) for phase in run_layout.PHASES)]
    found = [place for folder in folders for place in _code_of(folder)]
    if not name.startswith(builtin.PREFIX) and not folders[0].is_dir():
        found.insert(0, f"{name} on the hub, if any")
    for place in dict.fromkeys(found):
        yield f"model.trust_remote_code: true: runs the Python code of {place}"


def _code_of(folder: Path) -> Iterator[str]:
    """Find Python files of a model folder, and models of the hub whose code its config names."""
    files = sorted(folder.glob("*.py"))
    if files:
        yield f"{folder} ({', '.join(file.name for file in files)})"
    for config in ("config.json", "tokenizer_config.json"):
        try:
            named = json.loads((folder / config).read_text(encoding="utf-8"))["auto_map"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        for each in named:
            for name in each if isinstance(each, list) else [each]:
                if isinstance(name, str) and "--" in name:
                    yield f"{name.partition('--')[0]} on the hub, which {folder / config} names"
