"""A YAML reader without YAML 1.1's surprises, which records the line of every key.

PyYAML reads ``1e-5`` as text, ``no`` as false, ``012`` as ten, and silently keeps the second of two equal keys.
Here plain values follow YAML 1.2's core schema
(https://yaml.org/spec/1.2.2/#103-core-schema), and a duplicate key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from rlhfcli.errors import Problem, RecipeError

KeyPath = tuple[str | int, ...]  # of a value: keys, and indices of lists

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_MOST_REPEATED = 10_000  # values that aliases repeat; nine lines of nine aliases each would be hundreds of millions
_DEFAULT_TAGS = {_TAG + name for name in ("str", "map", "seq")}  # what a node is without an explicit tag


@dataclass
class Document:
    """A parsed text, with the place of every value.

    Args:
        data: Dictionaries, lists and plain values.
        lines: Line of every key and list entry, by path; the first line is 1.
        problems: Line, dotted key and text of errors that leave the rest readable, such as duplicate keys.
    """

    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    _visited: set[int] = field(default_factory=set)
    _repeated: int = 0

    def line(self, path: KeyPath) -> int:
        """Return the line of a path, or of the nearest enclosing value in the text; 0 if there is none.

        Args:
            path: Keys and indices.
        """
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)

    def visit(self, node: yaml.Node) -> None:
        """Limit the number of values that aliases repeat: a few lines could fill the memory.

        Args:
            node: The next node that becomes a value.

        Raises:
            yaml.composer.ComposerError: The limit is exceeded.
        """
        self._repeated += id(node) in self._visited
        self._visited.add(id(node))
        if self._repeated > _MOST_REPEATED:
            what = f"its aliases repeat more than {_MOST_REPEATED:,} values; write them out"
            raise yaml.composer.ComposerError(None, None, what, node.start_mark)


def read(text: str, where: str) -> Document:
    """Read one YAML document.

    Args:
        text: The YAML text.
        where: Name of the text in errors: a file, or ``--set #1``.

    Returns:
        The value, the line of every key, and the problems of single keys.

    Raises:
        RecipeError: The text is not YAML.
    """
    try:
        node = yaml.compose(text, _Loader)
        document = Document(None)
        document.data = None if node is None else _build(node, (), document, [])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError([Problem(where + line, "", _reword(error, text))]) from None
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        code = error.character if isinstance(error.character, int) else ord(error.character)
        what = f"the character U+{code:04X} is not allowed in YAML"
        raise RecipeError([Problem(where + line, "", what)]) from None
    except RecursionError:
        raise RecipeError([Problem(where, "", "the text is nested too deeply")]) from None
    return document


def plain(text: str) -> Any:
    """Convert an unquoted scalar by YAML 1.2's core schema.

    Args:
        text: As written.

    Returns:
        ``None``, a bool, a number, or the text itself.
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    try:
        if _INT.fullmatch(text):
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text[2:] if base != 10 else text, base)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # Python refuses whole numbers of thousands of digits
        pass
    return text


def write(value: Any) -> str:
    """Write YAML that this reader and every YAML 1.1 reader read as the same value.

    Args:
        value: Dictionaries, lists and plain values.

    Returns:
        YAML text in block style, keys in their order.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def inline(value: Any) -> str:
    """Write a value as one line of YAML, as it stands after ``--set key=``.

    Args:
        value: Dictionaries, lists and plain values.

    Raises:
        TypeError: YAML has no form for it.
    """
    try:
        text = yaml.dump(
            value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=True
        )
    except yaml.YAMLError:
        raise TypeError(f"{type(value).__name__} {value!r} has no form in YAML") from None
    return text.removesuffix("...\n").rstrip("\n")


class _Loader(yaml.SafeLoader):
    """Tags every plain scalar as ``str``, so that ``plain`` decides."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way to configure a loader)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either YAML version would read as another type."""


for _name, _pattern in (("bool", _BOOL), ("int", _INT), ("float", _FLOAT), ("null", _NULL)):
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern.pattern})$"), None)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Escape Unicode's line breaks, which would be read as YAML's."""
    style = '"' if any(sign in value for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(f"{_TAG}str", value, style)


_Dumper.add_representer(str, _text)


def _build(node: yaml.Node, path: KeyPath, document: Document, above: list[yaml.Node]) -> Any:
    if any(node is parent for parent in above):
        raise yaml.composer.ComposerError(None, None, "an alias contains itself", node.start_mark)
    document.visit(node)
    above = [*above, node]
    if node.tag not in _DEFAULT_TAGS:
        what = "tags such as !!int are not used in recipes; leave it out"
        document.problems.append((node.start_mark.line + 1, dotted(path), what))
    if isinstance(node, yaml.MappingNode):
        items = _items(node, path, document)
        return {key: _build(value, (*path, key), document, above) for key, value in items}
    if isinstance(node, yaml.SequenceNode):
        values = []
        for index, value in enumerate(node.value):
            entry = (*path, index)
            document.lines[entry] = value.start_mark.line + 1
            values.append(_build(value, entry, document, above))
        return values
    text = str(node.value)
    return plain(text) if getattr(node, "style", None) is None else text  # a style is a kind of quotes


def _items(node: yaml.MappingNode, path: KeyPath, document: Document) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the entries of a mapping; of a duplicate key only the first."""
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append((line, dotted(path), "a key must be a plain word"))
            continue
        key = str(key_node.value)
        here = (*path, key)
        if key in first:
            what = f"given twice, first in line {first[key]}; keep one of them"
            document.problems.append((line, dotted(here), what))
            continue
        first[key] = document.lines[here] = line
        yield key, value_node


def dotted(path: KeyPath) -> str:
    """Format a path as a user writes it: ``data.sources.0.path``.

    Args:
        path: Keys and indices.
    """
    return ".".join(str(part) for part in path)


def _reword(error: yaml.MarkedYAMLError, text: str) -> str:
    """Replace PyYAML's message by one that says what to do."""
    problem, mark = error.problem or "", error.problem_mark
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "'\\t'" in problem or ("\t" in line[: len(line) - len(line.lstrip())]):
        return "a tab is used for indentation; YAML needs spaces"
    if "expected a single document" in str(error.context):
        return "a second document starts here (---); a recipe is one document"
    known = {
        "its aliases repeat": problem,
        "mapping values are not allowed here": "a second ':' in this line, or the line is indented too far; "
        "put text that holds ': ' in quotes",
        "could not find expected ':'": "a ':' is missing after the key in this line or the one before",
        "expected <block end>": "the indentation does not fit the lines above",
        "expected '<document start>'": "the indentation does not fit the lines above",
        "did not find expected key": "the indentation does not fit the lines above",
        "found unexpected end of stream": "a quote is opened and never closed",
        "expected ',' or '}'": "a ',' or a closing '}' is missing",
        "expected ',' or ']'": "a ',' or a closing ']' is missing",
        "found undefined alias": "'*' starts an alias that is not defined; put the text in quotes",
        "cannot start any token": "this character cannot start a value; put the text in quotes",
    }
    for start, words in known.items():
        if start in problem:
            return words
    return f"not valid YAML: {problem}"
