"""What ships with the package, by name: the recipes, and the models and data that a recipe can name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

PREFIX = "builtin:"
TINY = "builtin:tiny"  # a model, data for both phases, prompts and pairs: all that is built in
TINY_DIALOGUES = "builtin:tiny/dialogues"
TINY_PAIRS = "builtin:tiny/pairs"

_REPOSITORY = Path(__file__).resolve().parents[2] / "recipes"


def names() -> list[str]:
    """Return the names of the built-in recipes, ``tiny`` first."""
    found = {file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml")}
    return sorted(found, key=lambda name: (name != "tiny", name))


def text(name: str) -> str | None:
    """Return the YAML text of a built-in recipe.

    Args:
        name: Such as ``tiny``.

    Returns:
        The text; ``None`` if there is no recipe of this name.
    """
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8") if name in names() else None


def summary(name: str) -> str:
    """Return the first line of a built-in recipe's opening comment.

    Args:
        name: Such as ``tiny``.
    """
    first = (text(name) or "").split("\n", 1)[0]
    return first.lstrip("# ").strip()


def _folder() -> Traversable:
    """Return the folder of the recipes: inside the package in a wheel, beside it in a checkout."""
    inside = resources.files("rlhfcli") / "recipes"
    return inside if inside.is_dir() else _REPOSITORY
