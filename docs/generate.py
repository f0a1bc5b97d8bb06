"""Write docs/recipe.md from the schema, and the table of data sets in docs/data.md from the catalogue.

    python docs/generate.py            --check only compares

The schema is the one place where keys, defaults, ranges and meanings are written down; this page repeats them for
people who read rather than run. tests/test_readme.py fails when the two differ.
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from rlhfcli.data.shapes.catalogue import ENTRIES
from rlhfcli.recipe.schema import Recipe, Section

PAGE = Path(__file__).with_name("recipe.md")
DATA_PAGE = Path(__file__).with_name("data.md")
BEGIN, END = "python docs/generate.py -->\n", "<!-- end -->"
INTRODUCTION = """\
# Recipe keys

<!-- Generated from rlhfcli/recipe/schema.py by: python docs/generate.py -->

A recipe is one YAML file that describes a whole project; every verb reads the same file. Two keys must be there,
`output_dir` and `model.name`, and at least one entry in `data.sources`. Everything else has the default given below.
`rlhf recipes show tiny` prints a complete example, `rlhf recipes validate FILE --resolved` prints yours with every
default written out.

- **Keys are strict.** An unknown or doubled key, a wrong type or a number out of range is an error that names the line,
  and the nearest right key; all errors of a file come at once. Other tools' names are understood as hints only:
  `lr` is refused with "did you mean `sft.learning_rate`?".
- **Values follow YAML 1.2.** `1e-5` is a number, `no` is a text, `012` is twelve.
- **Local paths** are looked for beside the recipe file first, then in the working directory; those that come with
  `--set`, in the working directory. `output_dir` is always relative to the working directory.
- **`--set KEY=VALUE`** changes a key from the command line, by the same rules. Entries of a list have numbers from 0:
  `--set data.sources.0.limit=500`. A whole section is YAML: `--set 'sft.lora={rank: 8, alpha: 16}'`, and
  `--set sft.lora=null` takes it out.
- **Lengths** are in tokens and **intervals** in optimizer steps, unless a key says otherwise.
"""


def page() -> str:
    """Return the text of docs/recipe.md."""
    sections: dict[type[Section], list[str]] = {Recipe: [""]}
    _collect(Recipe, "", sections)
    parts = [INTRODUCTION, *(_section(section, paths) for section, paths in sections.items())]
    return "\n".join(parts)


def data_page() -> str:
    """Return the text of docs/data.md: the present one, with the table of data sets from the catalogue."""
    before, _, rest = DATA_PAGE.read_text(encoding="utf-8").partition(BEGIN)
    rows = ["| data set | what it is | language |", "|---|---|---|"]
    for entry in ENTRIES:
        names = ", ".join(f"`{name}`" for name in (entry.name, *entry.aliases))
        rows.append(f"| {names} | {entry.about} | {entry.language} |")
    return "\n".join([before + BEGIN, *rows, "", END + rest.partition(END)[2]])


def keys(section: type[Section] = Recipe, path: str = "") -> typing.Iterator[str]:
    """Find the dotted names of all keys, sections included.

    Args:
        section: The section to begin with.
        path: Its dotted name.

    Yields:
        Names such as ``sft.lora.rank``; ``data.sources.0`` stands for any entry of the list.
    """
    for name, field in section.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        yield key
        for inner, suffix in _inner(field.annotation):
            yield from keys(inner, key + suffix)


def _collect(section: type[Section], path: str, found: dict[type[Section], list[str]]) -> None:
    for name, field in section.model_fields.items():
        for inner, suffix in _inner(field.annotation):
            key = f"{path}.{name}{suffix}".lstrip(".")
            found.setdefault(inner, []).append(key)
            _collect(inner, key, found)


def _inner(annotation: Any) -> typing.Iterator[tuple[type[Section], str]]:
    """Yield the sections that a field contains, with what they add to its name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, ""
    elif get_origin(annotation) is list:
        yield from ((inner, ".0") for inner, _ in _inner(get_args(annotation)[0]))
    else:
        for part in get_args(annotation):
            yield from _inner(part)


def _section(section: type[Section], paths: list[str]) -> str:
    title = " and ".join(f"`{path}`" for path in paths) if paths != [""] else "The top"
    text = (section.__doc__ or "").strip().split("\n\n")[0].replace("``", "`")
    if paths[0].endswith(".0"):
        text += " A list: `.0` is its first entry."
    rows = [_row(name, field) for name, field in section.model_fields.items()]
    head = ["| key | type | range | default | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", text, "", *head, *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    kind, limits = _describe(field.annotation, field.metadata)
    meaning = field.description or _purpose(field.annotation)
    cells = (f"`{name}`", kind, limits, _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in cells) + " |"


def _purpose(annotation: Any) -> str:
    for inner, _ in _inner(annotation):
        return (inner.__doc__ or "").strip().split("\n")[0]
    raise ValueError(f"a key without a meaning: {annotation}")


def _describe(annotation: Any, metadata: typing.Sequence[Any] = ()) -> tuple[str, str]:
    """Return the type and the range of a field, in words."""
    limits = _limits(metadata)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _describe(parts[0], [*parts[1:], *metadata])
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts), limits
    if origin in (typing.Union, types.UnionType):
        described = [_describe(part) for part in parts if part is not type(None)]
        inside = [limit for _, limit in described if limit]
        return " or ".join(kind for kind, _ in described), limits or ", ".join(inside)
    if origin is dict:
        return "texts by name" if parts[1] is str else "keys of their own", limits
    if origin is list:
        kind, _ = _describe(parts[0])
        return f"list of {kind}s", "not empty" if any(hasattr(rule, "min_length") for rule in metadata) else limits
    if origin is tuple:
        kind, each = _describe(parts[0])
        return f"list of {len(parts)} {kind}s", limits or each
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section", limits
    return {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[annotation], limits


def _limits(metadata: typing.Sequence[Any]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    rules = [rule for item in metadata for rule in (item.metadata if isinstance(item, FieldInfo) else [item])]
    found = [f"{sign} {getattr(rule, name):g}" for rule in rules for name, sign in signs.items() if hasattr(rule, name)]
    return ", ".join(found)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "left out"
    if isinstance(value, Section):
        return "see below"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml(part)}' for name, part in value.items())}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(part) for part in value)}]"
    return str(value)


def main() -> None:
    """Write the pages, or with ``--check`` exit with 1 where one is stale."""
    for place, text in ((PAGE, page()), (DATA_PAGE, data_page())):
        if "--check" not in sys.argv[1:]:
            place.write_text(text, encoding="utf-8")
        elif place.read_text(encoding="utf-8") != text:
            sys.exit(f"{place} is stale: python docs/generate.py")


if __name__ == "__main__":
    main()
