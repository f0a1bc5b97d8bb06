"""Loading of recipes.

- ``load_recipe``: text → ``schema.Recipe``, with ``--set`` on top; every problem is reported with its line
- ``dump``: ``schema.Recipe`` → text that loads again
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhfcli.errors import Problem, RecipeError, UserError
from rlhfcli.files import run_layout, strict_yaml
from rlhfcli.files.redact import HIDDEN, command_line, hidden_keys
from rlhfcli.recipe import builtin, cross_checks, messages, overrides, raw_deepspeed
from rlhfcli.recipe.paths import resolve
from rlhfcli.recipe.schema import Recipe

SEE = "see: rlhf recipes show tiny"


@dataclass(frozen=True)
class Loaded:
    """A validated recipe and its origin.

    Args:
        recipe: All settings; local paths are absolute.
        text: The YAML text of the file, without the changes.
        path: The file; ``None`` for a built-in recipe.
        name: The path, or the built-in name.
        why: Why this recipe was chosen.
        overrides: The changes (``--set``) on top of it.
        notes: Settings that are ignored, and why.
    """

    recipe: Recipe
    text: str
    path: Path | None
    name: str
    why: str = ""
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def first_line(self) -> str:
        """The first line of a command's output."""
        why = f" ({self.why})" if self.why else ""
        changes = f", with {command_line(self.overrides)}" if self.overrides else ""
        return f"recipe: {self.name}{why}{changes}"


def load_recipe(source: str | Path, changes: Sequence[str] = (), why: str = "", *, named: bool = True) -> Loaded:
    """Load and validate a recipe.

    Args:
        source: A built-in name, or a file.
        changes: The ``key=value`` texts of ``--set``.
        why: Why this recipe was chosen, for the first line of output.
        named: Whether the user named this file; only then may it allow a model's own code to run.

    Returns:
        The validated recipe.

    Raises:
        RecipeError: The recipe or a change is invalid; holds all problems, sorted by line.
        UserError: The file cannot be read.
    """
    text, path = _read(source)
    document = strict_yaml.read(text, str(source))
    if not isinstance(document.data, dict):
        content = "is empty" if document.data is None else f"holds {messages.shown(document.data)}, no keys"
        raise RecipeError([Problem(str(source), "", f"the recipe {content}")], hint=SEE)
    data, changed, invalid = overrides.apply(document.data, changes)
    problems = _Problems(str(source), document, changed, invalid)
    recipe = _validate(data, path, problems)
    in_run = path is not None and _lies_in_run(path)
    if in_run:
        problems.add(_redacted_secrets(data))
    if recipe is None or problems.found:
        raise problems.error()
    if path and path.name == run_layout.RECIPE and run_layout.is_run(path.parent) and ("output_dir",) not in changed:
        # the run may have been moved, or be used from another working directory
        recipe = recipe.model_copy(update={"output_dir": str(path.parent)})
    typed = overrides.number_at(("model", "trust_remote_code"), changed) is not None
    recipe, notes = (recipe, ()) if typed or (named and not in_run) else _without_trust(recipe)
    return Loaded(recipe, text, path, str(source), why, tuple(changes), notes)


def dump(recipe: Recipe) -> str:
    """Write a recipe with all defaults; it loads again to the same recipe.

    Args:
        recipe: All settings.

    Returns:
        YAML text.
    """
    return strict_yaml.write(recipe.model_dump(mode="json"))


def _validate(data: Any, path: Path | None, problems: _Problems) -> Recipe | None:
    """Validate a recipe and make its paths absolute; ``None`` where it does not fit the schema."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems.add(messages.reword(error.errors(), data))
        return None
    recipe = resolve(recipe, path.parent if path else None, problems.is_typed)
    recipe, unreadable = raw_deepspeed.with_file(recipe)
    problems.add(unreadable)
    problems.add(cross_checks.find(recipe))
    return recipe


class _Problems:
    """The problems of a recipe with their places: lines of the file, then numbers of the ``--set``.

    Args:
        name: Name of the recipe.
        document: Its text, parsed.
        changed: Number of the ``--set`` that gave a value, by path.
        invalid: Numbers and problems of changes that could not be made.
    """

    def __init__(
        self,
        name: str,
        document: strict_yaml.Document,
        changed: dict[strict_yaml.KeyPath, int],
        invalid: list[tuple[int, Problem]],
    ) -> None:
        self._name, self._document, self._changed = name, document, changed
        self.found = [((1, number), problem) for number, problem in invalid]
        self.found += [((0, line), Problem(f"{name}:{line}", key, what)) for line, key, what in document.problems]

    def is_typed(self, path: strict_yaml.KeyPath) -> bool:
        """Return whether a value comes from ``--set``."""
        return overrides.number_at(path, self._changed) is not None

    def add(self, problems: Iterable[tuple[strict_yaml.KeyPath, str]]) -> None:
        """Add problems of keys."""
        self.found += [self._placed(path, what) for path, what in problems]

    def error(self) -> RecipeError:
        """Return all problems as an error, sorted by place."""
        return RecipeError([problem for _, problem in sorted(self.found, key=lambda pair: pair[0])], hint=SEE)

    def _placed(self, path: strict_yaml.KeyPath, what: str) -> tuple[tuple[int, int], Problem]:
        line = self._document.line(path)
        number = overrides.number_at(path, self._changed)
        if number is None and path not in self._document.lines:
            number = overrides.number_below(path, self._changed)
        key = strict_yaml.dotted(path)
        if number is not None:
            return (1, number), Problem(overrides.name(number), key, what)
        return (0, line), Problem(f"{self._name}:{line}" if line else self._name, key, what)


def _lies_in_run(file: Path) -> bool:
    """Return whether a recipe lies beside models: then they came together, perhaps from another person."""
    models = (run_layout.final(file.parent, phase) for phase in run_layout.PHASES)
    return run_layout.is_run(file.parent) or any(map(os.path.isdir, models))


def _without_trust(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Ignore a permission to run a model's code that the user has not given."""
    if not recipe.model.trust_remote_code:
        return recipe, ()
    note = (
        "model.trust_remote_code: true does not count in the recipe of a run folder, which may be somebody else's; "
        "to run the Python code that comes with the model: --set model.trust_remote_code=true"
    )
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"trust_remote_code": False})}), (note,)


def _redacted_secrets(data: object) -> Iterator[tuple[strict_yaml.KeyPath, str]]:
    for key in hidden_keys(data):
        path = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        yield path, f"{HIDDEN} stands where a secret was, which is not written down; give it again: --set {key}=…"


def _read(source: str | Path) -> tuple[str, Path | None]:
    if isinstance(source, str) and source in builtin.names():
        return builtin.text(source) or "", None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8-sig"), path
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise RecipeError([Problem(f"{path}:{line}", "", "this line is not UTF-8 text")], hint=SEE) from None
    except OSError as error:
        what = f"the recipe cannot be read: {(error.strerror or str(error)).lower()}"
        raise UserError(what, where=str(path), hint=SEE) from None
