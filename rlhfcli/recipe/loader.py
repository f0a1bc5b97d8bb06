"""Read a recipe, and check all of it at once.

- ``load_recipe``: text → ``schema.Recipe``, with ``--set`` on top; every mistake is told with its line
- ``dump``: ``schema.Recipe`` → text that loads again
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """A recipe that is ready to use.

    Args:
        recipe: All settings; local paths are absolute.
        text: The YAML text as it was written, without the changes.
        path: The file, or None for a built-in recipe.
        name: What to call it: the path, or the built-in name.
        why: Why this one was taken.
        overrides: The changes (``--set``) on top of it.
        notes: What in it does not count, and why.
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
        """What a command says before everything else."""
        why = f" ({self.why})" if self.why else ""
        changes = f", with {command_line(self.overrides)}" if self.overrides else ""
        return f"recipe: {self.name}{why}{changes}"


def load_recipe(source: str | Path, changes: Sequence[str] = (), why: str = "", *, named: bool = True) -> Loaded:
    """Read a recipe and check it.

    Args:
        source: A built-in name, or a file.
        changes: ``key=value`` texts of ``--set``.
        why: Why this recipe was taken, for the first line of output.
        named: The user has named this file. One that was found in a folder does not decide whose code runs.

    Returns:
        The checked recipe.

    Raises:
        RecipeError: Something in it, or in the changes, is wrong; everything that is, sorted by line.
        UserError: The file cannot be read.
    """
    text, path = _read(source)
    name = str(source)
    document = strict_yaml.read(text, name)
    if not isinstance(document.data, dict):
        empty = "is empty" if document.data is None else f"holds {messages.shown(document.data)}, no keys"
        raise RecipeError([Problem(name, "", f"the recipe {empty}")], hint=SEE)
    data, made, wrong = overrides.apply(document.data, changes)
    places = _Places(name, document, made)
    found = [((1, number), problem) for number, problem in wrong]
    found += [((0, line), Problem(f"{name}:{line}", key, what)) for line, key, what in document.problems]
    recipe = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        found += [places.problem(*told) for told in messages.reword(error.errors(), data)]
    if recipe is not None:
        recipe = resolve(recipe, path.parent if path else None, lambda p: overrides.as_typed(p, made) is not None)
        recipe, unread = raw_deepspeed.with_file(recipe)
        found += [places.problem(*told) for told in (*unread, *cross_checks.find(recipe))]
    in_run = path is not None and _is_in_a_run(path)
    if in_run:
        found += [places.problem(*told) for told in _without_their_secrets(data)]
    if found or recipe is None:
        raise RecipeError([problem for _, problem in sorted(found, key=lambda pair: pair[0])], hint=SEE)
    its_own = path is not None and path.name == run_layout.RECIPE and run_layout.is_run(path.parent)
    if path and its_own and ("output_dir",) not in made:
        # a run may have been moved, or be used from another folder: its recipe means the run that it lies in
        recipe = recipe.model_copy(update={"output_dir": str(path.parent)})
    typed = overrides.as_typed(("model", "trust_remote_code"), made) is not None
    recipe, notes = (recipe, ()) if typed or (named and not in_run) else _without_trust(recipe)
    return Loaded(recipe, text, path, name, why, tuple(changes), notes)


def dump(recipe: Recipe) -> str:
    """Write a recipe with every default in it; it loads again to the same recipe.

    Args:
        recipe: All settings.

    Returns:
        YAML text.
    """
    return strict_yaml.write(recipe.model_dump(mode="json"))


@dataclass(frozen=True)
class _Places:
    """Where the keys come from."""

    name: str
    document: strict_yaml.Document
    made: dict[strict_yaml.KeyPath, int]

    def problem(self, path: strict_yaml.KeyPath, what: str) -> tuple[tuple[int, int], Problem]:
        """A problem with its place, and what to sort it by."""
        line = self.document.line(path)
        number = overrides.as_typed(path, self.made)
        if number is None and path not in self.document.lines:
            number = overrides.made_below(path, self.made)
        key = strict_yaml.dotted(path)
        if number is not None:
            return (1, number), Problem(overrides.name(number), key, what)
        return (0, line), Problem(f"{self.name}:{line}" if line else self.name, key, what)


def _is_in_a_run(file: Path) -> bool:
    """Whether a recipe lies where models lie, too: then they came together, perhaps from somebody else."""
    models = (run_layout.final(file.parent, phase) for phase in run_layout.PHASES)
    return run_layout.is_run(file.parent) or any(map(os.path.isdir, models))


def _without_trust(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Take nobody's word but the user's for running code that comes with a model."""
    if not recipe.model.trust_remote_code:
        return recipe, ()
    note = (
        "model.trust_remote_code: true does not count in the recipe of a run folder, which may be somebody else's; "
        "to run the Python code that comes with the model: --set model.trust_remote_code=true"
    )
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"trust_remote_code": False})}), (note,)


def _without_their_secrets(data: object) -> Iterator[tuple[strict_yaml.KeyPath, str]]:
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
